"""REPA's own code against ditscale's, on REPA's weights."""

import repa
from reference import check, each_file


@each_file("repa")
def test_everything_agrees(path):
    check(repa.compare(path))
