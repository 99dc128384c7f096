"""Classifier-free guidance: ``uncond + scale * (cond - uncond)``, both passes as one batch. Scale 1 costs one pass."""

import torch
from torch import Tensor


class Guided:
    """A model with guidance, called as the model is: ``(x, t, y)`` to its raw output.

    Guidance acts on all channels. ``null_class`` is the label index of "no class".
    """

    def __init__(self, model, scale: float, null_class: int):
        self.model, self.scale, self.null_class = model, scale, null_class

    @property
    def passes(self) -> int:
        """Forward passes of the model a call: what a sampling step costs."""
        return 1 if self.scale == 1 else 2

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if self.scale == 1:
            return self.model(x, t, y)
        null = torch.full_like(y, self.null_class)
        cond, uncond = self.model(x.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([y, null])).chunk(2)
        return torch.lerp(uncond.float(), cond.float(), self.scale)
