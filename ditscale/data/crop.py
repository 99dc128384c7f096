"""The centre crop of ADM (guided-diffusion), which DiT and its descendants train on: one rule, bit for bit.

An image whose short side is at least twice the wanted size is halved with a box filter, again and again; then a bicubic
resize brings the short side to the size; then the middle square is cut out. Images that are smaller are enlarged.
"""

from PIL import Image


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
    """Width and height after the bicubic resize, before the cut. A thin image that is enlarged may get very long."""
    while min(sides) >= 2 * size:
        sides = (sides[0] // 2, sides[1] // 2)
    scale = size / min(sides)
    return round(sides[0] * scale), round(sides[1] * scale)                     # Python's round: a half goes to the even
