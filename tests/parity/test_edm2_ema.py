"""Averages as EDM2's own code makes them."""

import edm2_ema
import torch
from reference import check, each_file, load, relative


@each_file("edm2_ema")
def test_averages_are_edm2s(path):
    check(edm2_ema.compare(path))


@each_file("edm2_ema")
def test_a_length_between_the_tracks_is_as_good_as_tracked(path):
    """Divided by their sum, the coefficients give the average to a thousandth or so; not divided, they scale it by a percent."""
    file = load(path)
    between = [i for i, length in enumerate(file["out_lengths"].tolist()) if file["lengths"].min() < length < file["lengths"].max()]
    for images in file["out_images"].tolist() if between else []:
        rebuilt, truth = edm2_ema.rebuild(file, images)[1], file[f"tracked_directly_{images}"]
        for i in between:
            assert relative(rebuilt[i], truth[i]) < 5e-3
            scale = torch.dot(rebuilt[i], truth[i].double()) / truth[i].double().square().sum()
            assert abs(scale - 1) < 3e-3
