"""The crop is ADM's, bit for bit."""

import numpy as np
import pytest
from PIL import Image

from ditscale.data.decode import adm_crop, resized


def by_the_rule(image, size):
    """Four lines, from the rule's description: halve by box, resize by bicubic, cut the middle."""
    while min(image.size) >= 2 * size:
        image = image.resize([side // 2 for side in image.size], Image.BOX)
    image = image.resize([round(side * (size / min(image.size))) for side in image.size], Image.BICUBIC)
    pixels = np.array(image)
    return pixels[(pixels.shape[0] - size) // 2:][:size, (pixels.shape[1] - size) // 2:][:, :size]


SHAPES = [(1, 1), (3, 2000), (2000, 3), (256, 256), (64, 64), (63, 65), (128, 127), (127, 128), (129, 300), (500, 333)]
SHAPES += [tuple(sides) for sides in np.random.default_rng(7).integers(2, 700, (40, 2)).tolist()]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [32, 64])
def test_equals_the_rule_on_50_shapes(mode, size):
    random = np.random.default_rng(0)
    for height, width in SHAPES:
        image = Image.fromarray(random.integers(0, 256, (height, width) + (3,) * (mode == "RGB"), np.uint8))
        expected = by_the_rule(image, size)
        assert expected.shape[:2] == (size, size)
        assert (np.asarray(adm_crop(image, size)) == expected).all(), (height, width)


def test_the_middle_is_kept():
    pixels = np.zeros((64, 192, 3), np.uint8)
    pixels[:, 64:128] = 200
    assert (np.asarray(adm_crop(Image.fromarray(pixels), 64)) == 200).all()


def test_an_image_of_the_size_is_itself():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert (np.asarray(adm_crop(Image.fromarray(pixels), 32)) == pixels).all()


def test_the_size_before_the_cut():
    assert resized((3, 2000), 256) == (256, 170_667)
    assert resized((2048, 1024), 256) == (512, 256)
    assert resized((375, 500), 256) == (256, 341)
