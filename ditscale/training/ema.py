"""The exponential moving average of the fp32 masters, sharded as the optimizer is: a rank averages what it owns."""

import torch

from ditscale.training import zero


class ShardedEma:
    """``ema <- decay * ema + (1 - decay) * master`` over this rank's partitions. It starts as the masters are."""

    def __init__(self, engine):
        self.masters = zero.partitions(engine)
        self.flats = [master.detach().clone() for master in self.masters]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        torch._foreach_lerp_(self.flats, [master.detach() for master in self.masters], 1 - decay)
