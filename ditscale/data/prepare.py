"""Converts stored values to model inputs: scaled to [-1, 1], or sampled from the moments and normalized; flipped if the flip was drawn.

A ``Prepare`` runs on the training device. Its random numbers come from named streams of ``ditscale.randomness``, so flips and
latent noise are functions of (seed, position). Its ``pick`` chooses which stored flip the loader reads.
"""

import numpy as np
import torch
from torch import Tensor

from ditscale.data.beton import BetonFile
from ditscale.data.kinds import MIRROR, check_classes, check_data, image_shape, kind_of
from ditscale.data.latents import from_bits
from ditscale.data.manifest import Encoder, read_manifest
from ditscale.randomness import Normal, Uniform, draw


class Pixels:
    """uint8 (B, C, H, W) to [-1, 1]."""

    pick = None

    def __init__(self, *, flip: bool):
        self.streams: dict[str, Normal | Uniform] = {"flip": Uniform()} if flip else {}

    def __call__(self, raw: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """fp32 (B, C, H, W)."""
        images = raw.float() / 127.5 - 1
        return torch.where(draws["flip"][:, :, None, None] < 0.5, images.flip(-1), images) if "flip" in self.streams else images


class Latents:
    """Moments, int16 (B, 2, c, h, w), or a sample, (B, 1, c, h, w), to what a model sees: (mean + std * noise - shift) * scale.

    Args:
        shift, scale: see ``stored_normalization``; the released DiT: 0 and 0.18215.
        drawn: False if the encoder has no std or a sample is stored; then the mean or the sample is used.
        flip: True: half of the images are their stored flip; "mirror": half are mirrored here.
    """

    def __init__(self, shape: tuple[int, int, int], *, bits: str, shift: Tensor, scale: Tensor, drawn: bool, flip: bool | str):
        self.bits, self.shift, self.scale, self.flip = bits, shift, scale, flip
        self.streams: dict[str, Normal | Uniform] = {"latent draw": Normal(shape)} if drawn else {}
        if flip == MIRROR:
            self.streams["flip"] = Uniform()

    def pick(self, seed: int, positions: np.ndarray) -> np.ndarray:
        """Which moments to read: 0 the image's, 1 its flip's. int64, in the shape of ``positions``."""
        if self.flip is not True:
            return np.zeros_like(positions)
        drawn = draw(seed, torch.from_numpy(positions.reshape(-1)), {"flip": Uniform()})["flip"]
        return (drawn < 0.5).long().numpy().reshape(positions.shape)

    def __call__(self, raw: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """fp32 (B, c, h, w)."""
        if self.flip == MIRROR:
            raw = torch.where(draws["flip"][:, :, None, None, None] < 0.5, raw.flip(-1), raw)
        if "latent draw" in self.streams:
            mean, std = from_bits(raw, self.bits).unbind(1)                    # (B, c, h, w) each
            latents = mean + std * draws["latent draw"]
        else:
            latents = from_bits(raw[:, 0], self.bits)
        if self.shift.device != raw.device:                                    # once: a copy from the host blocks on the device
            self.shift, self.scale = self.shift.to(raw.device), self.scale.to(raw.device)
        return (latents - self.shift) * self.scale


def make_prepare(data) -> Pixels | Latents:
    """The ``Prepare`` of a config's section ``data``.

    Raises:
        UserError: the file is missing or damaged, or does not match the section.
    """
    file = BetonFile(data.path)
    check_data("data.path", file, data)
    check_classes("data.path", file, data)
    if kind_of(file) == "pixels":
        return Pixels(flip=data.flip)
    encoder = read_manifest(data.path).encoder
    shift, scale = stored_normalization(data, encoder)
    return Latents(image_shape(file), bits=encoder["bits"], shift=shift, scale=scale, drawn=encoder["has_std"], flip=data.flip)


def normalization(data, encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Shift and scale of the latents that a model sees, (latent - shift) * scale: the section's own, else the encoder's.

    Both are one number, or one per channel: fp32 (1 or c, 1, 1).
    """
    shift, scale = _wanted(data, encoder)
    return shift.float(), scale.float()


def stored_normalization(data, encoder: Encoder) -> tuple[Tensor, Tensor]:
    """The same for the numbers as they are stored: (stored - shift) * scale. The encoder's may already be applied."""
    shift, scale = _wanted(data, encoder)
    if encoder.get("applied"):
        before_shift, before_scale = _column(encoder["shift_factor"]), _column(encoder["scaling_factor"])
        shift, scale = (shift - before_shift) * before_scale, scale / before_scale
    return shift.float(), scale.float()


def own_latents(stored: Tensor, encoder: Encoder) -> Tensor:
    """Stored numbers (..., c, h, w) as the encoder gave them."""
    if not encoder.get("applied"):
        return stored
    return stored / _column(encoder["scaling_factor"]).float() + _column(encoder["shift_factor"]).float()


def _wanted(data, encoder: Encoder) -> tuple[Tensor, Tensor]:
    shift = encoder["shift_factor"] if data.latent_shift is None else data.latent_shift
    scale = encoder["scaling_factor"] if data.latent_scale is None else data.latent_scale
    return _column(shift), _column(scale)


def _column(value) -> Tensor:
    return torch.tensor(value, dtype=torch.float64).reshape(-1, 1, 1)
