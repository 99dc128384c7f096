"""SiT's own code against ditscale's, on SiT's weights."""

import sit
from reference import check, each_file


@each_file("sit")
def test_everything_agrees(path):
    check(sit.compare(path))
