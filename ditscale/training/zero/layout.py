"""The partition of the fp32 masters over ranks; converts shards to full tensors by name.

ZeRO keeps, on each rank, flat fp32 tensors (*flats*): its share of all parameters. Optimizer moments and EMA have the same
shape. Stages differ only in where a parameter's numbers are stored; only this file depends on it. ``gather`` and ``scatter`` move
bits without rounding, so saved files depend on neither world size nor stage.

    stage 0      every rank has everything: a flat is a parameter
    stage 1, 2   the parameters of a group are concatenated and cut into equal parts, one per rank
    stage 3      each parameter is cut into equal parts, and the parts of a rank are concatenated
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ditscale.device import local_device
from ditscale.errors import UserError
from ditscale.training.zero import private


@dataclass(frozen=True)
class Piece:
    """``numel`` numbers of parameter ``name``, starting at its element ``start``, at ``offset`` in the rank's flat ``group``."""

    name: str
    group: int
    offset: int
    start: int
    numel: int


@dataclass(frozen=True)
class Made:
    """The parameters before they were passed to DeepSpeed, which splits them and their groups."""

    optimizer: torch.optim.Optimizer
    groups: list[list[Tensor]]                                                 # the optimizer's parameters
    shapes: dict[str, torch.Size]                                              # of trained parameters, by name
    offloads: bool                                                             # masters are offloaded to the host
    hands_out_fragments: bool                                                  # whether DeepSpeed gives access to parts of reduced gradients


class Layout:
    """The pieces of every rank for one engine, and this rank's flats.

    ``shards`` is the number of ranks that share the masters: 1 if every rank has all.
    """

    def __init__(self, engine):
        self.parameters = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
        self.shapes = engine.made.shapes
        self.names = {p: name for name, p in self.parameters.items()}
        self.stage = engine.zero_optimization_stage()
        self.shards = 1 if self.stage == 0 else dist.get_world_size()
        self.rank = 0 if self.stage == 0 else dist.get_rank()
        self.masters = _masters(engine, self.stage)
        find = {0: self._pieces_of_all, 1: self._pieces_of_group, 2: self._pieces_of_group, 3: self._pieces_of_parameters}
        self.pieces = [find[self.stage](engine, rank) for rank in range(self.shards)]

    @property
    def mine(self) -> list[Piece]:
        """This rank's pieces."""
        return self.pieces[self.rank]

    @property
    def first_names(self) -> list[str]:
        """The name of one parameter in each flat, on any rank; all that a flat holds are of one group of the optimizer."""
        names: dict[int, str] = {}
        for piece in (piece for pieces in self.pieces for piece in pieces):
            names.setdefault(piece.group, piece.name)
        return [names[group] for group in range(len(self.masters))]

    def _pieces_of_all(self, engine, rank: int) -> list[Piece]:
        return [Piece(self.names[p], at, 0, 0, p.numel()) for at, p in enumerate(p for group in engine.made.groups for p in group)]

    def _pieces_of_group(self, engine, rank: int) -> list[Piece]:
        pieces = []
        for group, parameters in enumerate(engine.made.groups):
            share = self.masters[group].numel()
            begin_of_all = weights_of(parameters, self.masters[group], self.shards).storage_offset()
            for p in sorted(parameters, key=lambda p: p.storage_offset()):
                first = p.storage_offset() - begin_of_all
                begin, end = max(first, rank * share), min(first + p.numel(), (rank + 1) * share)
                if begin < end:
                    pieces.append(Piece(self.names[p], group, begin - rank * share, begin - first, end - begin))
        return pieces

    def _pieces_of_parameters(self, engine, rank: int) -> list[Piece]:
        pieces = []
        for group, parameters in enumerate(private.members(engine)):
            offset = 0
            for p in parameters:
                share, numel = private.share(p), self.shapes[self.names[p]].numel()
                begin, end = rank * share, min((rank + 1) * share, numel)  # the last part may be short, or empty
                if begin < end:
                    pieces.append(Piece(self.names[p], group, offset, begin, end - begin))
                offset += share
        return pieces

    def gather(self, flats: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """Full fp32 tensors by name, on the CPU of rank 0; empty on the others. Flats that are None are left out. Collective."""
        names = {piece.name for pieces in self.pieces for piece in pieces if flats[piece.group] is not None} if dist.get_rank() == 0 else ()
        whole = {name: torch.empty(shape) for name, shape in self.shapes.items() if name in names}
        for rank, pieces in enumerate(self.pieces):
            for group, flat in enumerate(flats):
                if flat is None:
                    continue
                part = self._from_rank(rank, flat).view(-1)
                for piece in pieces if whole else ():
                    if piece.group == group:
                        found = part[piece.offset:piece.offset + piece.numel]
                        whole[piece.name].view(-1)[piece.start:piece.start + piece.numel] = found
        return whole

    def _from_rank(self, rank: int, flat: Tensor) -> Tensor:
        """The flat of the given rank, on the CPU; the flats of a group have one size. Collective."""
        if self.shards == 1 or rank == 0:
            return flat.detach().cpu() if dist.get_rank() == 0 else flat.detach()
        if dist.get_rank() == rank:
            dist.send(_on_wire(flat), dst=0)
        elif dist.get_rank() == 0:
            wire = _on_wire(torch.empty_like(flat))
            dist.recv(wire, src=rank)
            return wire.cpu()
        return flat.detach()

    @torch.no_grad()
    def scatter(self, whole: dict[str, Tensor], flats: Sequence[Tensor | None]) -> None:
        """Fills this rank's flats from full named tensors; padding becomes zero. The inverse of ``gather``; not collective."""
        for flat in flats:
            if self.stage and flat is not None:
                flat.zero_()
        for piece in self.mine:
            flat = flats[piece.group]
            if flat is not None:
                source = whole[piece.name].view(-1)[piece.start:piece.start + piece.numel]
                flat.view(-1)[piece.offset:piece.offset + piece.numel].copy_(source)


def _masters(engine, stage: int) -> list[Tensor]:
    """This rank's flats, which the optimizer updates."""
    if stage == 3:                                                             # the optimizer sees them one at a time
        return private.flats(engine)
    return [p for group in engine.made.optimizer.param_groups for p in group["params"]]


def weights_of(parameters: list[Tensor], master: Tensor, shards: int) -> Tensor:
    """At stages 1 and 2: the forward weights of a group, with padding, as one flat tensor.

    Raises:
        UserError: they are not contiguous.
    """
    first = min(parameters, key=lambda p: p.storage_offset())
    end = max(p.storage_offset() + p.numel() for p in parameters) - first.storage_offset()
    storage = first.untyped_storage()
    is_one = all(p.untyped_storage().data_ptr() == storage.data_ptr() for p in parameters)
    whole, there_are = shards * master.numel(), storage.nbytes() // first.element_size() - first.storage_offset()
    if not is_one or not end <= whole <= there_are:
        raise UserError(f"DeepSpeed {private.version()} does not store a group's weights contiguously, as stages 1 and 2 did before; "
                        f"{private.PINNED} does")
    return first.detach().as_strided((whole,), (1,))


def _on_wire(flat: Tensor) -> Tensor:
    """A tensor that the process group can send: offloaded ones go through the accelerator if the group needs that."""
    flat = flat.detach()
    return flat.to(local_device()) if dist.get_backend() != "gloo" and flat.device.type == "cpu" else flat
