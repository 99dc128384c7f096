"""Averages as EDM2's own code makes them."""

import edm2_ema
from reference import check, each_file


@each_file("edm2_ema")
def test_everything_agrees(path):
    check(edm2_ema.compare(path))
