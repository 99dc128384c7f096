"""DiT's own code against ditscale's, on DiT's weights."""

import dit
from reference import check, each_file


@each_file("dit")
def test_everything_agrees(path):
    check(dit.compare(path))
