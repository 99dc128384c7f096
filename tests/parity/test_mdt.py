"""MDT's own code against ditscale's, on MDT's weights."""

import mdt
from reference import check, each_file


@each_file("mdt")
def test_everything_agrees(path):
    check(mdt.compare(path))
