"""The arithmetic for each class of diffusers' autoencoders: one class here each, listed in ``KINDS``.

A kind makes *latents* (B, c, h, w) of images and images of these. They are the encoder's output, before any normalization; for
FLUX.2 they are folded 2 x 2 into channels, as its transformer takes them. A model sees (latent - shift) * scale.
"""

from collections.abc import Sequence
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ditscale.errors import UserError

Numbers = float | list[float]                                                  # one, or one per channel


class KL:
    """``AutoencoderKL``: Stable Diffusion's, SDXL's, Stable Diffusion 3's, FLUX.1's and many more."""

    has_std = True

    def __init__(self, model, name: str):
        self.model, self.name, self.config = model, name, {key: value for key, value in model.config.items() if not key.startswith("_")}
        self.scale, self.shift = self._normalization()

    @property
    def image_channels(self) -> int:
        return self.config["in_channels"]

    @property
    def channels(self) -> int:
        """Of latents."""
        return self.config["latent_channels"]

    @property
    def factor(self) -> int:
        """Side in pixels of the square that becomes one cell."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    def encode(self, pixels: Tensor) -> list[Tensor]:
        """Mean and std of images (B, C, H, W) in [-1, 1]; only the latents if the encoder has no std."""
        found = self.model.encode(pixels).latent_dist
        return [found.mean, found.std]

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents).sample

    def _normalization(self) -> tuple[Numbers, Numbers]:
        """Scale and shift. Per-channel mean and std are SDXL's pipeline's: (x - mean) * scaling_factor / std."""
        scale, shift = float(self.config.get("scaling_factor") or 1.0), float(self.config.get("shift_factor") or 0.0)
        per_channel = {name for name in ("latents_mean", "latents_std") if self.config.get(name) is not None}
        if not per_channel:
            return scale, shift
        if len(per_channel) == 1 or shift:
            also = "shift_factor" if shift else f"no {'latents_std' if 'latents_mean' in per_channel else 'latents_mean'}"
            raise UserError(f"{self.name}: its config has {' and '.join(sorted(per_channel))} and {also}, which no pipeline defines; latents_mean "
                            "and latents_std without shift_factor would work")
        mean, std = self._channel_numbers("latents_mean"), self._channel_numbers("latents_std")
        return [scale / one for one in self._positive("latents_std", std)], mean

    def _channel_numbers(self, key: str) -> list[float]:
        values = self.config.get(key)
        if not isinstance(values, Sequence) or len(values) != self.channels:
            raise UserError(f"{self.name}: its config's {key} is {str(values)[:80]}, not {self.channels} numbers, one for each channel of its latents")
        return [float(value) for value in values]

    def _positive(self, key: str, values: list[float]) -> list[float]:
        if wrong := [value for value in values if not (isfinite(value) and value > 0)]:
            raise UserError(f"{self.name}: its {key} holds {wrong[0]}; numbers above 0 are needed")
        return values


class Tiny(KL):
    """``AutoencoderTiny`` (TAESD): no std."""

    has_std = False

    @property
    def factor(self) -> int:
        return 2 ** (len(self.config["encoder_block_out_channels"]) - 1)

    def encode(self, pixels: Tensor) -> list[Tensor]:
        return [self.model.encode(pixels).latents]


class DC(Tiny):
    """``AutoencoderDC`` (SANA): no std; cells of 32 x 32 or 64 x 64 pixels."""

    def encode(self, pixels: Tensor) -> list[Tensor]:
        return [self.model.encode(pixels).latent]


class Flux2(KL):
    """``AutoencoderKLFlux2``: latents are folded 2 x 2 into channels, then normalized by the statistics of its batch norm."""

    @property
    def fold(self) -> int:
        high, wide = self.config["patch_size"]
        if high != wide:
            raise UserError(f"{self.name}: its config's patch_size is {high} x {wide}; a square one is needed")
        return high

    @property
    def channels(self) -> int:
        return self.config["latent_channels"] * self.fold**2

    @property
    def factor(self) -> int:
        return super().factor * self.fold

    def encode(self, pixels: Tensor) -> list[Tensor]:
        return [pixel_unshuffle(numbers, self.fold) for numbers in super().encode(pixels)]

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(pixel_shuffle(latents, self.fold))

    def _normalization(self) -> tuple[Numbers, Numbers]:
        norm, eps = self.model.bn, float(self.config["batch_norm_eps"])
        variances = self._positive("batch norm's variances", [value + eps for value in norm.running_var.double().tolist()])
        return [1 / sqrt(value) for value in variances], norm.running_mean.double().tolist()


class Frames(KL):
    """``AutoencoderKLWan`` and ``AutoencoderKLQwenImage``: for videos; an image is a video of one frame."""

    @property
    def image_channels(self) -> int:
        if "input_channels" in self.config:                                    # Qwen-Image's name for it
            return self.config["input_channels"]
        return self.config["in_channels"] // self._fold**2

    @property
    def channels(self) -> int:
        return self.config["z_dim"]

    @property
    def factor(self) -> int:
        return 2 ** (len(self.config["dim_mult"]) - 1) * self._fold

    @property
    def _fold(self) -> int:
        return self.config.get("patch_size") or 1                              # Wan 2.2 folds pixels into channels first

    def encode(self, pixels: Tensor) -> list[Tensor]:
        return [numbers[:, :, 0] for numbers in super().encode(pixels[:, :, None])]

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents[:, :, None])[:, :, 0]

    def _normalization(self) -> tuple[Numbers, Numbers]:
        std = self._positive("latents_std", self._channel_numbers("latents_std"))
        return [1 / value for value in std], self._channel_numbers("latents_mean")


KINDS: dict[str, type[KL]] = {
    "AutoencoderKL": KL, "AutoencoderTiny": Tiny, "AutoencoderDC": DC, "AutoencoderKLFlux2": Flux2, "AutoencoderKLQwenImage": Frames,
    "AutoencoderKLWan": Frames}


def class_of(config: dict[str, Any], name: str):
    """The class of diffusers that a config names.

    Raises:
        UserError: it is not in ``KINDS``, or this version of diffusers does not have it.
    """
    import diffusers

    kind = config.get("_class_name")
    if kind not in KINDS:
        raise UserError(f"--vae {name} is a {kind}, not one of {', '.join(KINDS)}")
    if not hasattr(diffusers, kind):
        raise UserError(f"--vae {name} is an {kind}, which diffusers {diffusers.__version__} does not have; pip install --upgrade diffusers")
    return getattr(diffusers, kind)


def kind_of_model(model: torch.nn.Module, name: str) -> KL:
    """The kind of a loaded autoencoder; ``name`` is for messages."""
    return KINDS[type(model).__name__](model, name)
