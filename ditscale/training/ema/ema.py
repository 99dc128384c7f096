"""Moving averages of the fp32 masters, sharded like the optimizer: a rank averages what it owns. One that runs forward is a teacher."""

import torch
from torch import nn

from ditscale.config import TrainConfig
from ditscale.training.ema.profiles import MAIN, decays
from ditscale.training.zero.layout import Layout
from ditscale.training.zero.zero import SecondModel


class ShardedEma:
    """``ema <- decay * ema + (1 - decay) * master`` over this rank's flats. It starts as the masters are."""

    def __init__(self, layout: Layout):
        self.masters = layout.masters
        self.flats = [master.detach().clone() for master in self.masters]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        torch._foreach_lerp_(self.flats, [master.detach() for master in self.masters], 1 - decay)


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


class Averages:
    """All the averages that a run keeps, by name: ``train.ema_decay``, further decays, power-function tracks."""

    def __init__(self, layout: Layout, train: TrainConfig):
        self.layout, self.decays = layout, decays(train)
        self.tracks = {name: ShardedEma(layout) for name in self.decays}

    def gather(self) -> dict[str, torch.Tensor]:
        """The main average's weights by parameter name, whole, on rank 0; empty on the others. Collective."""
        return self.layout.gather(self.tracks[MAIN].flats)

    def update(self, before: int, after: int) -> None:
        """After the step that leads from ``before`` images seen to ``after``."""
        for name, track in self.tracks.items():
            track.update(self.decays[name](before, after))
