"""The copies of all parameters that DeepSpeed's ZeRO 1 and 2 make in every step, and that a step does without.

Nothing of DeepSpeed is replaced: tensors are laid where it finds them done. Where they lie otherwise it copies as ever.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from ditscale.training.zero.layout import Layout, Piece


class _Run(list):
    """Gradients that lie end to end, under the name by which DeepSpeed asks for them flat."""

    def __init__(self, parts: list[Tensor], flat: Tensor):
        super().__init__(parts)
        self.flat_partition = flat


def share_weights(engine) -> None:
    """In fp32 a rank's masters and its part of the forward's weights are the same numbers: let them be the same memory.

    Saves 4 bytes a parameter, shared out over the ranks, and the copy after each step.
    """
    zero = engine.optimizer
    for master, parts in zip(zero.single_partition_of_fp32_groups, zero.parallel_partitioned_bit16_groups, strict=True):
        mine = parts[dist.get_rank()]
        if mine.dtype == master.dtype and mine.device == master.device:
            master.data = mine.data
    zero._link_all_hp_params()                                                 # else the former masters stay alive in its views


def lay_end_to_end(engine, layout: Layout) -> Iterator[tuple[Piece, Tensor]]:
    """Before ``engine.step()``, on the only rank at stage 1: the gradients, moved from the parameters to where the step reads them.

    In place of a reduction with nobody, which takes three copies. Each comes out as soon as it lies there, still in the cache.
    """
    flats = [torch.empty_like(weights) for weights in engine.optimizer.bit16_groups_flat]
    parts, ends = [[] for _ in flats], [0] * len(flats)
    for piece in layout.mine:
        p, group, end = layout.parameters[piece.name], piece.group, piece.offset + piece.numel
        if piece.offset > ends[group]:
            flats[group][ends[group]:piece.offset].zero_()                     # padding, where parameters are aligned
        part = flats[group][piece.offset:end]
        part.zero_() if p.grad is None else part.copy_(p.grad.view(-1))
        p.grad = None
        parts[group].append(part)
        ends[group] = end
        yield piece, part
    for group, flat in enumerate(flats):
        flat[ends[group]:].zero_()                                             # padding
        engine.optimizer.averaged_gradients[group] = _Run(parts[group], flat)


def spare_flattening(engine) -> bool:
    """Before ``engine.step()``: the reduced gradients as one flat tensor, without a copy, where they lie in the masters' order.

    At stage 1 they do, but for the last rank where its part ends in padding. Says whether all do.
    """
    zero = engine.optimizer
    for group, parts in zero.averaged_gradients.items():
        flat = _end_to_end(parts, int(zero.partition_size[group])) if parts else None
        if flat is None:
            return False
        zero.averaged_gradients[group] = _Run(parts, flat)
    return True


def _end_to_end(parts: list[Tensor], numel: int) -> Tensor | None:
    """The parts as one tensor of ``numel`` numbers if that is how they lie in memory."""
    first, begin = parts[0], parts[0].data_ptr()
    end = begin
    for part in parts:
        if part.data_ptr() != end or not part.is_contiguous():
            return None
        end += part.numel() * part.element_size()
    storage = first.untyped_storage()
    if end - begin != numel * first.element_size() or end > storage.data_ptr() + storage.nbytes():
        return None
    return first.as_strided((numel,), (1,))
