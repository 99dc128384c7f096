"""Moving averages of the fp32 masters, sharded as the optimizer is: a rank averages what it owns."""

import torch

from ditscale.config import TrainConfig
from ditscale.training.ema.profiles import decays
from ditscale.training.zero.layout import Layout


class ShardedEma:
    """``ema <- decay * ema + (1 - decay) * master`` over this rank's flats. It starts as the masters are."""

    def __init__(self, layout: Layout):
        self.layout, self.masters = layout, layout.masters
        self.flats = [master.detach().clone() for master in self.masters]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        torch._foreach_lerp_(self.flats, [master.detach() for master in self.masters], 1 - decay)


class Averages:
    """All the averages that a run keeps, by name: ``train.ema_decay``, further decays, power-function tracks."""

    def __init__(self, layout: Layout, train: TrainConfig):
        self.decays = decays(train)
        self.tracks = {name: ShardedEma(layout) for name in self.decays}

    def update(self, before: int, after: int) -> None:
        """After the step that leads from ``before`` images seen to ``after``."""
        for name, track in self.tracks.items():
            track.update(self.decays[name](before, after))
