"""Images of every kind come out as the pixels that one would expect, and are counted."""

import io

import numpy as np
import pytest
from PIL import Image

from ditscale.data import decode as decode_module
from ditscale.data.decode import Unreadable, decode, unlimited_pillow

OPTIONS = {"size": 16, "channels": 3, "max_pixels": 10_000_000}


def encoded(image, form="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def test_a_plain_image_is_its_own_pixels(pixels):
    array, handled = decode(encoded(Image.fromarray(pixels)), **OPTIONS)
    assert array.shape == (16, 16, 3) and handled == []
    assert (array == pixels).all()
    assert (decode(pixels, **OPTIONS)[0] == array).all()                        # an array of pixels, as from .npy


def test_greyscale_and_channels(pixels):
    grey = Image.fromarray(pixels[..., 0])
    array, handled = decode(encoded(grey), **OPTIONS)
    assert handled == ["greyscale"] and (array == pixels[..., :1]).all()
    assert (decode(encoded(grey), **OPTIONS | {"channels": 1})[0] == pixels[..., :1]).all()
    one, handled = decode(encoded(Image.fromarray(pixels)), **OPTIONS | {"channels": 1})
    assert handled == [] and (one[..., 0] == np.asarray(Image.fromarray(pixels).convert("L"))).all()


def test_palette_cmyk_alpha(pixels):
    palette = Image.fromarray(pixels).quantize(16)
    array, handled = decode(encoded(palette, "GIF"), **OPTIONS)
    assert handled == ["palette"] and (array == np.asarray(palette.convert("RGB"))).all()
    content = encoded(Image.fromarray(pixels).convert("CMYK"), "JPEG")
    array, handled = decode(content, **OPTIONS)
    assert handled == ["cmyk"] and (array == np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))).all()
    alpha = np.dstack([pixels, np.zeros((16, 16), np.uint8)])
    array, handled = decode(encoded(Image.fromarray(alpha)), **OPTIONS)
    assert handled == ["alpha"] and (array == pixels).all()                # dropped, as ADM and torchvision do


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(form):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    array, handled = decode(encoded(Image.fromarray(values), form), **OPTIONS)
    assert handled == ["greyscale", "sixteen_bit"]
    assert (array == np.round(values / 257)[..., None]).all() and array.max() == 255 and array.min() == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation, turn", [(3, 2), (6, 3), (8, 1)])
def test_turned_photos_are_upright(pixels, form, orientation, turn):
    exif = Image.Exif()
    exif[decode_module.ORIENTATION] = orientation
    content = encoded(Image.fromarray(pixels), form, exif=exif)
    stored = np.asarray(Image.open(io.BytesIO(content)))
    array, handled = decode(content, **OPTIONS)
    assert handled == ["exif_rotated"] and (array == np.rot90(stored, turn)).all()


def test_large_images(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)                        # Pillow refuses twice that
    monkeypatch.setattr(decode_module, "HUGE_PIXELS", 1000)
    content = encoded(Image.new("RGB", (100, 50)))
    with unlimited_pillow():
        assert decode(content, **OPTIONS)[1] == ["huge"]
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(Unreadable, match="100 x 50 pixels, above the limit"):
        decode(content, **OPTIONS | {"max_pixels": 4999})
    with pytest.raises(Unreadable, match="so thin that it becomes 16 x 16000"):
        decode(encoded(Image.new("RGB", (3, 3000))), **OPTIONS | {"max_pixels": 10_000})


def test_small_images_are_enlarged_and_animations_give_their_first():
    assert decode(encoded(Image.new("RGB", (1, 1), (9, 8, 7))), **OPTIONS)[1] == ["enlarged"]
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    array, handled = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), **OPTIONS)
    assert "animated" in handled and tuple(array[0, 0]) == (255, 0, 0)


@pytest.mark.parametrize("content, reason", [
    (b"", "not an image"), (b"GIF89a", "."), (b"<svg></svg>", "not an image"), (b"\xff\xd8\xff\xe0" + b"\0" * 40, "."),
    (encoded(Image.new("RGB", (64, 64), "red"), "JPEG")[:-100], "(?i)truncated"),
    (encoded(Image.effect_noise((64, 64), 9))[:-200], "truncated"),
    (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    (encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), "32-bit"),
])
def test_what_cannot_be_used_says_why(content, reason):
    with pytest.raises(Unreadable, match=reason):
        decode(content, **OPTIONS)
