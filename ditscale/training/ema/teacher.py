"""A teacher: an average of the student that also runs forward, in the precision of training."""

import torch
from torch import nn

from ditscale.training.ema.ema import ShardedEma
from ditscale.training.zero.layout import Layout
from ditscale.training.zero.zero import SecondModel


class Teacher(ShardedEma):
    """A sharded fp32 average, and ``model``, whose weights are that average rounded to the training precision.

    DeepSpeed never sees the teacher: no gradient, no optimizer state, no hook. Each rank averages what it owns; then the ranks
    exchange the rounded weights, as ZeRO does with the student's. It starts as the student is.

    Args:
        model: one of the student's architecture that nothing else uses; its weights are replaced.
    """

    def __init__(self, layout: Layout, model: nn.Module, dtype: torch.dtype):
        super().__init__(layout)
        self.model = model.requires_grad_(False).eval()
        self.weights = SecondModel(layout, self.model, dtype)
        self.refresh()

    def update(self, decay: float) -> None:
        super().update(decay)
        self.refresh()

    def refresh(self) -> None:
        """Bring the forward weights in line with the average. Collective; needed wherever ``flats`` are set from outside."""
        self.weights.set(self.flats)
