"""Decodes any image to an array of pixels: color modes, rotated photos, 16 bits, then the crop.

The crop is the center crop of ADM (guided-diffusion), which DiT and its descendants train on, bit for bit: an image whose short side is
at least twice the wanted size is halved with a box filter repeatedly; then a bicubic resize brings the short side to the size;
then the middle square is cut out. Smaller images are enlarged.

docs/data.md lists what is done to each kind. Every conversion is counted under a name of ``HANDLED``.
"""

import io
import struct
import warnings
from collections import Counter
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import jpeg_factory

HANDLED = ("greyscale", "palette", "cmyk", "alpha", "exif_rotated", "sixteen_bit", "huge", "animated", "enlarged")
HUGE_PIXELS = 89_478_485                                                        # PIL's own limit for a warning
ORIENTATION = 0x0112                                                            # EXIF tag; 1 is upright
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
BY_MODE = {"1": {"greyscale"}, "L": {"greyscale"}, "LA": {"greyscale", "alpha"}, "La": {"greyscale", "alpha"}, "P": {"palette"},
           "PA": {"palette", "alpha"}, "RGBA": {"alpha"}, "RGBa": {"alpha"}, "CMYK": {"cmyk"},
           **dict.fromkeys(("I", *SIXTEEN_BIT), {"greyscale", "sixteen_bit"})}


class Unreadable(ValueError):
    """This one image cannot be used; the message says why in a few words."""


def decode(content, *, size: int, channels: int, max_pixels: int) -> tuple[np.ndarray, list[str]]:
    """Pixels uint8 (size, size, channels) of an encoded image (bytes) or an array of pixels, and what was done to it.

    To be called inside ``unlimited_pillow``, or Pillow's own limit and warnings come first.

    Raises:
        Unreadable: it is truncated, no image, larger than ``max_pixels`` before or after the resize, or has no 8 or 16 bits.
    """
    mode = "L" if channels == 1 else "RGB"
    try:
        image = Image.fromarray(content) if isinstance(content, np.ndarray) else _opened(content)
        if image.width * image.height > max_pixels:
            raise Unreadable(f"{image.width} x {image.height} pixels, above the limit")
        image.load()
        handled = _found(image, size)
        image = ImageOps.exif_transpose(image) if "exif_rotated" in handled else image
        image = _eight_bits(image)
        image = image if image.mode == mode else image.convert(mode)
        if "enlarged" in handled:
            width, height = resized(image.size, size)
            if width * height > max(max_pixels, size * size):
                raise Unreadable(f"so thin that it becomes {width} x {height} pixels at this size, above the limit")
        pixels = np.frombuffer(adm_crop(image, size).tobytes(), np.uint8)       # faster than np.asarray
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not an image, or a kind that Pillow does not know") from None
    # Pillow's decoders raise various errors on damaged files: OSError, SyntaxError, struct.error, EOFError, IndexError, ...
    except Exception as error:
        raise Unreadable(" ".join(str(error).split()) or type(error).__name__) from None
    return pixels.reshape(size, size, channels), handled


def adm_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle ``size`` x ``size`` pixels of the image at the scale at which its short side is ``size``."""
    if image.size == (size, size):
        return image                                                            # the rule would copy it, twice
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), resample=Image.Resampling.BOX)
    image = image.resize(resized(image.size, size), resample=Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def resized(sides: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height after the bicubic resize, before the cut. An enlarged thin image may become very long."""
    while min(sides) >= 2 * size:
        sides = (sides[0] // 2, sides[1] // 2)
    scale = size / min(sides)
    return round(sides[0] * scale), round(sides[1] * scale)                     # Python's round: half to even


def _opened(content: bytes) -> Image.Image:
    """``Image.open`` tries one format after the other: 5 % of the decoding time for CIFAR's JPEGs."""
    if content.startswith(b"\xff\xd8\xff"):
        with suppress(SyntaxError, IndexError, TypeError, struct.error):        # Pillow finds that it is not a JPEG
            return jpeg_factory(io.BytesIO(content))
    return Image.open(io.BytesIO(content))


def _found(image: Image.Image, size: int) -> list[str]:
    """What is special about an image, as names of ``HANDLED``."""
    found = set(BY_MODE.get(image.mode, ()))
    if "transparency" in image.info:
        found.add("alpha")
    if _turned(image):
        found.add("exif_rotated")
    if image.width * image.height > HUGE_PIXELS:
        found.add("huge")
    if getattr(image, "is_animated", False):
        found.add("animated")
    if min(image.size) < size:
        found.add("enlarged")
    return [name for name in HANDLED if name in found] if found else []


def _turned(image: Image.Image) -> bool:
    """Whether EXIF data, or XMP data which Pillow takes for it, states a rotation or a mirror image."""
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():      # saves a tenth of a small image's time
        return False
    return image.getexif().get(ORIENTATION, 1) in range(2, 9)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16 bits to 8 by value / 257, rounded: 65535 becomes 255. Pillow's own conversion would clip everything above 255."""
    if image.mode == "F":
        raise Unreadable("floating-point pixels, of unknown range")
    if image.mode not in ("I", *SIXTEEN_BIT):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise Unreadable("32-bit pixels, of unknown range")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


@contextmanager
def unlimited_pillow():
    """Pillow without its own limit, which ours replaces, and without its warnings, which the counts replace. Both are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def count(handled: list[list[str]]) -> dict[str, int]:
    """How many images each name of ``HANDLED`` was found on; names found on none are left out."""
    counts = Counter(name for names in handled for name in names)
    return {name: counts[name] for name in HANDLED if counts[name]}
