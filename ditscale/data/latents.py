"""Latent files: the encoder's mean and std of each image and of its horizontal flip, as 16-bit floats.

Field 'moments' int16 (2, 2, c, h, w) = [image, flip] x [mean, std] holds the floats' bits, since FFCV loads no 16-bit floats. An encoder
without a std has (2, 1, c, h, w).
The numbers are the encoder's own, not sampled and not scaled: that happens at load (``ditscale.data.prepare``).
"""

import numpy as np
import torch
from torch import Tensor

from ditscale.errors import UserError

BITS = {"fp16": torch.float16, "bf16": torch.bfloat16}


def to_bits(moments: Tensor, bits: str) -> np.ndarray:
    """Floats as the int16 with the bits of the nearest 16-bit float.

    Raises:
        UserError: a number is too large for that format, or not finite.
    """
    narrow = moments.to(BITS[bits])
    if not torch.isfinite(narrow).all():
        raise UserError(f"the encoder gives values that {bits} cannot hold (largest {moments.abs().max().item():g}); "
                        + ("bf16 may" if bits == "fp16" and torch.isfinite(moments).all() else "its weights are damaged"))
    return narrow.cpu().contiguous().view(torch.int16).numpy()


def from_bits(stored: Tensor, bits: str) -> Tensor:
    """The fp32 numbers that ``to_bits`` stored."""
    return stored.view(BITS[bits]).float()


def signed_pixels(images: Tensor, encoder) -> Tensor:
    """A decoder's output as images in [-1, 1]. A decoder's range is that of the pixels that its encoder took."""
    low, high = encoder.get("pixel_range", (-1.0, 1.0))
    return images if (low, high) == (-1.0, 1.0) else (images - low) * (2 / (high - low)) - 1
