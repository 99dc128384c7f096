"""Moving averages of the fp32 masters, sharded like the optimizer: each rank averages its own part. An average used in forward passes is a teacher."""

import torch
from torch import nn

from ditscale.config import TrainConfig
from ditscale.training.ema.profiles import MAIN, decays
from ditscale.training.zero.layout import Layout
from ditscale.training.zero.zero import SecondModel


class ShardedEma:
    """``ema <- decay * ema + (1 - decay) * master`` over this rank's flats. It starts equal to the masters."""

    def __init__(self, layout: Layout):
        self.masters = layout.masters
        self.flats = [master.detach().clone() for master in self.masters]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        torch._foreach_lerp_(self.flats, [master.detach() for master in self.masters], 1 - decay)


class Teacher(ShardedEma):
    """A sharded fp32 average, and ``model`` with weights that are the average rounded to the training precision.

    The teacher is not part of DeepSpeed: it has no gradient, no optimizer state, no hook. Each rank averages its own part; then the ranks
    exchange the rounded weights, as ZeRO does with the student's. It starts equal to the student.

    Args:
        model: has the student's architecture and is not used elsewhere; its weights are replaced.
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
        """Updates the forward weights from the average. Collective; needed after ``flats`` are set from outside."""
        self.weights.set(self.flats)


class Averages:
    """All averages of a run, by name: ``train.ema_decay``, further decays, power-function tracks."""

    def __init__(self, layout: Layout, train: TrainConfig):
        self.layout, self.decays = layout, decays(train)
        self.tracks = {name: ShardedEma(layout) for name in self.decays}

    @property
    def main(self) -> list[torch.Tensor]:
        """The flats of the main average, ``train.ema_decay``."""
        return self.tracks[MAIN].flats

    def gather(self) -> dict[str, torch.Tensor]:
        """The main average's full weights by parameter name on rank 0; empty on the others. Collective."""
        return self.layout.gather(self.main)

    def update(self, before: int, after: int) -> None:
        """Updates all averages after the step from ``before`` images seen to ``after``."""
        for name, track in self.tracks.items():
            track.update(self.decays[name](before, after))
