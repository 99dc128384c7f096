"""How much of a model's matrices ZeRO leaves on other ranks than their owners, in closed form: what ``matrices.py`` sends. No torch."""

from collections.abc import Sequence
from itertools import groupby

from ditscale.models.matrices import WeightMatrix


def off_owner(matrices: Sequence[WeightMatrix], stacked: Sequence[int], stage: int, ranks: int) -> int:
    """Numbers that do not lie on their matrix's owner, the rank with most of it; each is sent to it in a step, and its update back.

    Args:
        matrices: of the model, block after block. Stages 1 and 2 depend on their order, by at most half a matrix for each cut.
        stacked: how many matrices each of these is to the optimizer; 0: none, it is not exchanged.
        stage: 1 and 2 cut the flat of all of them, in order, in equal parts; 3 cuts every parameter.
    """
    if not stage or ranks == 1:
        return 0
    parameters = [(one.rows * one.columns, count) for one, count in _in_order(matrices, stacked) if count]
    if stage == 3:
        times = {parameter: parameters.count(parameter) for parameter in set(parameters)}
        return sum(number * _of_parameter(0, *parameter, -(-parameter[0] // ranks)) for parameter, number in times.items())
    part, start, found = -(-sum(numel for numel, _ in parameters) // ranks), 0, 0
    for numel, count in parameters:
        found += _of_parameter(start, numel, count, part)
        start += numel
    return found


def _in_order(matrices: Sequence[WeightMatrix], stacked: Sequence[int]) -> list[tuple[WeightMatrix, int]]:
    """One entry per parameter; those that are there equally often are of one stack of blocks, and come block by block."""
    found: list[tuple[WeightMatrix, int]] = []
    for depth, some in groupby(zip(matrices, stacked, strict=True), key=lambda pair: pair[0].count):
        found += list(some) * depth
    return found


def _of_parameter(start: int, numel: int, count: int, part: int) -> int:
    """Numbers off their owner of ``count`` stacked matrices that begin at ``start`` of a flat that is cut every ``part`` numbers."""
    size, found = numel // count, 0
    for first in range(start, start + numel, size):
        end = first + size
        edges = [first, *range((first // part + 1) * part, end, part), end]
        found += size - max(after - before for before, after in zip(edges, edges[1:]))
    return found
