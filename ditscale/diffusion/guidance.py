"""Classifier-free guidance: ``uncond + scale * (cond - uncond)``, both passes in one batch; a single pass at levels without guidance.

With another model as the guide (autoguidance, arXiv 2406.02507) its conditional pass takes the place of the unconditional one.
"""

import math

import torch
from torch import Tensor

from ditscale.diffusion.formulation import wide
from ditscale.diffusion.nfe import guided_at


class Guided:
    """A model with guidance, called like the model: ``(x, t, y)`` to its raw output. Samplers call ``at(level)``.

    Args:
        null_class: the label index of "no class".
        channels: ``all``, or ``first3`` as in the released DiT: the first three image channels. The other channels, and the variance
            if one is learned, are those of the conditional pass.
        interval: noise levels, in the formulation's unit, between which guidance is used (arXiv 2404.07724); None: everywhere.
        schedule: ``constant``, or ``power_cosine`` (MDT): weak at strong noise, ``scale`` at the clean end.
        power: of the power-cosine; MDT uses 4.
        noise_share: maps a level to its position between clean (0) and pure noise (1); needed by the power-cosine.
        guide: another model of the same images, called like ``model``; None: the model itself without the label.
    """

    def __init__(self, model, scale: float, null_class: int, *, channels: str = "all",
                 interval: tuple[float, float] | None = None, schedule: str = "constant", power: float = 4.0, noise_share=None, guide=None):
        self.model, self.scale, self.null_class = model, scale, null_class
        self.channels, self.interval = channels, interval
        self.schedule, self.power, self.noise_share, self.other = schedule, power, noise_share, guide

    @property
    def passes(self) -> int:
        """Forward passes of the model per guided evaluation."""
        return 1 if self.scale == 1 else 2

    def scale_at(self, level: float) -> float:
        """The scale at a level; 1 outside the interval. Power-cosine: ``1 + (w - 1) (1 - cos(pi (1 - t/T)^s)) / 2``."""
        if not guided_at(level, self.scale, self.interval):
            return 1.0
        if self.schedule == "constant":
            return self.scale
        return 1 + (self.scale - 1) * (1 - math.cos(math.pi * (1 - self.noise_share(level)) ** self.power)) / 2

    def at(self, level: float):
        """The model to call at this level."""
        if not guided_at(level, self.scale, self.interval):
            return self.model
        scale = self.scale_at(level)
        return lambda x, t, y: self.guide(x, t, y, scale)

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.model(x, t, y) if self.scale == 1 else self.guide(x, t, y, self.scale)

    def guide(self, x: Tensor, t: Tensor, y: Tensor, scale: float) -> Tensor:
        """One batch of conditional and unconditional rows, or a batch of each model, combined."""
        if self.other is not None:
            cond, uncond = self.model(x, t, y), self.other(x, t, y)
        else:
            null = torch.full_like(y, self.null_class)
            cond, uncond = self.model(x.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([y, null])).chunk(2)
        cond, uncond = wide(cond), wide(uncond)
        guided = x.shape[1] if self.channels == "all" else min(3, x.shape[1])
        if guided == cond.shape[1]:
            return torch.lerp(uncond, cond, scale)
        return torch.cat([torch.lerp(uncond[:, :guided], cond[:, :guided], scale), cond[:, guided:]], dim=1)
