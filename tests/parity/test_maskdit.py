"""MaskDiT's own code against ditscale's, on MaskDiT's weights."""

import maskdit
from reference import check, each_file


@each_file("maskdit")
def test_everything_agrees(path):
    check(maskdit.compare(path))
