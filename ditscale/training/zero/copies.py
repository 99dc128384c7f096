"""Avoids the copies of all parameters that DeepSpeed's ZeRO 1 and 2 make in every step.

DeepSpeed's code is not replaced: tensors are placed where it expects the copies. If they are elsewhere, it copies as usual.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from ditscale.training.zero import private
from ditscale.training.zero.layout import Layout, Piece, weights_of


class _Run(list):
    """Contiguous gradients, with the attribute through which DeepSpeed reads them flat."""

    def __init__(self, parts: list[Tensor], flat: Tensor):
        super().__init__(parts)
        self.flat_partition = flat


def share_weights(engine) -> None:
    """In fp32 a rank's masters and its part of the forward weights are equal, so this makes them share memory.

    Saves 4 bytes per parameter, divided by the number of ranks, and the copy after each step.
    """
    if not private.has(engine, private.RELINK):
        return
    for group, parameters in zip(engine.made.optimizer.param_groups, engine.made.groups, strict=True):
        [master] = group["params"]
        mine = weights_of(parameters, master, dist.get_world_size()).view(dist.get_world_size(), -1)[dist.get_rank()]
        if mine.dtype == master.dtype and mine.device == master.device:
            master.data = mine
    private.forget_former_masters(engine)                                      # otherwise they stay alive in its views


def lay_end_to_end(engine, layout: Layout) -> Iterator[tuple[Piece, Tensor]]:
    """Before ``engine.step()``, on a single rank at stage 1: moves the gradients from the parameters to where the step reads them.

    This replaces a reduction over one rank, which takes three copies. Each gradient is yielded right after it is moved, still in the cache.
    """
    flats = [torch.empty_like(weights_of(parameters, master, 1)) for parameters, master in zip(engine.made.groups, layout.masters)]
    parts: list[list[Tensor]] = [[] for _ in flats]
    ends = [0] * len(flats)
    for piece in layout.mine:
        p, group, end = layout.parameters[piece.name], piece.group, piece.offset + piece.numel
        if piece.offset > ends[group]:
            flats[group][ends[group]:piece.offset].zero_()                     # padding, if parameters are aligned
        part = flats[group][piece.offset:end]
        part.zero_() if p.grad is None else part.copy_(p.grad.view(-1))
        p.grad = None
        parts[group].append(part)
        ends[group] = end
        yield piece, part
    for group, flat in enumerate(flats):
        flat[ends[group]:].zero_()                                             # padding
        private.averaged(engine)[group] = _Run(parts[group], flat)
