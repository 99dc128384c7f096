"""Whole matrices from the flats of all ranks, for an optimizer that needs them: each is gathered on one rank, its owner, and sent back.

The owner is the rank with most of a matrix; of ranks with equally much (stage 3 cuts every parameter) the one with the least work so far.
A matrix that lies on one rank is never sent: at stage 0 all, at stages 1 and 2 all but those at the ends of ranks' parts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ditscale.training.zero.layout import Layout, Piece


class Place(NamedTuple):
    """``numel`` numbers of a matrix from its number ``start``, at ``offset`` of a rank's flat."""

    offset: int
    start: int
    numel: int


@dataclass(frozen=True)
class Matrix:
    """One matrix, with the place on each rank that has some of it."""

    rows: int
    columns: int
    places: dict[int, Place]
    owner: int


class Unsharded:
    """The layout of parameters that no engine has divided: each is a flat of its own."""

    def __init__(self, parameters: dict[str, nn.Parameter]):
        self.masters, self.shapes, self.rank, self.shards = list(parameters.values()), {name: p.shape for name, p in parameters.items()}, 0, 1
        self.pieces = [[Piece(name, at, 0, 0, p.numel()) for at, (name, p) in enumerate(parameters.items())]]


def matrices_of(layout: Layout | Unsharded, stacked: Callable[[str], int]) -> list[list[Matrix]]:
    """The matrices of each flat, the same on every rank.

    Args:
        stacked: how many matrices are stacked in a parameter, by its name; 0 for one that is no matrix to the optimizer.
    """
    found: list[dict[tuple[str, int], dict[int, Place]]] = [{} for _ in layout.masters]
    for rank, pieces in enumerate(layout.pieces):
        for piece in pieces:
            count = stacked(piece.name)
            numel = layout.shapes[piece.name].numel() // max(count, 1)
            for index in range(count):
                first, end = max(piece.start, index * numel), min(piece.start + piece.numel, (index + 1) * numel)
                if first < end:
                    place = Place(piece.offset + first - piece.start, first - index * numel, end - first)
                    found[piece.group].setdefault((piece.name, index), {})[rank] = place
    work = [0] * layout.shards
    return [[_owned(places, *_shape(layout.shapes[name], stacked(name)), work) for (name, _), places in flat.items()] for flat in found]


def _shape(shape: torch.Size, stacked: int) -> tuple[int, int]:
    return shape[0] // stacked, shape[1]


def _owned(places: dict[int, Place], rows: int, columns: int, work: list[int]) -> Matrix:
    owner = min(places, key=lambda rank: (-places[rank].numel, work[rank]))
    work[owner] += rows * columns * min(rows, columns)
    return Matrix(rows, columns, places, owner)


class Exchange:
    """The matrices of one flat, on this rank. ``gather`` and ``scatter`` are collective if a matrix lies on several ranks.

    Args:
        matrices: the same list on every rank.
    """

    def __init__(self, matrices: list[Matrix], rank: int, ranks: int):
        self.rank, self.mine = rank, [(one, one.places[rank]) for one in matrices if rank in one.places]
        self.owned = [one for one in matrices if one.owner == rank]
        self.sends = any(len(one.places) > 1 for one in matrices)
        others = [other for other in range(ranks) if other != rank]
        # What this rank has of others' matrices, and what others have of this rank's: by rank, in the order of the list.
        lent = {other: [place for one, place in self.mine if one.owner == other] for other in others}
        borrowed = {other: [(at, one.places[other]) for at, one in enumerate(self.owned) if other in one.places] for other in others}
        self.lent = [place for some in lent.values() for place in some]
        self.borrowed = [pair for some in borrowed.values() for pair in some]
        self.lent_sizes = [sum(place.numel for place in lent.get(other, ())) for other in range(ranks)]
        self.borrowed_sizes = [sum(place.numel for _, place in borrowed.get(other, ())) for other in range(ranks)]

    def gather(self, flat: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """This rank's matrices (rows, columns): a view of ``flat`` where it has all of one, else a new tensor of the dtype that is sent."""
        found = []
        for one in self.owned:
            own = one.places[self.rank]
            part = flat[own.offset:own.offset + own.numel]
            if len(one.places) > 1:
                whole = torch.empty(one.rows * one.columns, dtype=dtype, device=flat.device)
                whole[own.start:own.start + own.numel] = part
                part = whole
            found.append(part)
        if self.sends:
            lent = [flat[place.offset:place.offset + place.numel].to(dtype) for place in self.lent]
            received = _sent(lent, self.lent_sizes, self.borrowed_sizes, dtype, flat.device)
            for (at, place), part in zip(self.borrowed, received.split([place.numel for _, place in self.borrowed]), strict=True):
                found[at][place.start:place.start + place.numel] = part
        return [part.view(one.rows, one.columns) for one, part in zip(self.owned, found, strict=True)]

    def scatter(self, matrices: list[Tensor], flat: Tensor, dtype: torch.dtype) -> None:
        """Puts the matrices of ``gather``, changed in place, back into the flats of the ranks that have them."""
        for one, matrix in zip(self.owned, matrices, strict=True):
            own = one.places[self.rank]
            if len(one.places) > 1:
                flat[own.offset:own.offset + own.numel] = matrix.view(-1)[own.start:own.start + own.numel]
        if self.sends:
            back = [matrices[at].view(-1)[place.start:place.start + place.numel] for at, place in self.borrowed]
            received = _sent(back, self.borrowed_sizes, self.lent_sizes, dtype, flat.device)
            for place, part in zip(self.lent, received.split([place.numel for place in self.lent]), strict=True):
                flat[place.offset:place.offset + place.numel] = part


def _sent(parts: list[Tensor], sizes: list[int], receives: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sends each rank its share of the parts, and returns what the others sent here, by rank. Collective."""
    buffer = torch.cat(parts) if parts else torch.empty(0, dtype=dtype, device=device)
    received = torch.empty(sum(receives), dtype=dtype, device=device)
    dist.all_to_all_single(received, buffer, receives, sizes)
    return received
