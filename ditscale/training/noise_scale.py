"""The critical batch size, measured in the run: the noise of the gradient against its size (McCandlish et al. 2018, arXiv 1812.06162).

A batch of B images consists of micro batches of b. With g_b the mean square norm of the micro batches' gradients and g_B that of the batch's,

    |G|^2 = (B g_B - b g_b) / (B - b),    tr S = (g_b - g_B) / (1/b - 1/B),    critical batch = tr S / |G|^2

are unbiased for the square of the true gradient and for the trace of the covariance of one image's gradient. Both are averaged apart over the last
part of training, and divided only when they are read. The second pair weighs each number by 1 / (sqrt(v) + eps)^2 with Adam's v from before the
step: the gradient as Adam scales it.

A micro batch's gradient is seen by hooks as the backward produces it, before it is added to others or reduced, so there is no further pass, at any
ZeRO stage. Seen are at most ``MOST`` evenly spaced numbers of each parameter, in every ``EVERY``-th step. One rank with one micro batch shows
nothing: there b = B.
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ditscale.config import RunConfig
from ditscale.models.parametrization import Scale
from ditscale.ranks import World
from ditscale.training.movement import stride_of
from ditscale.training.optimizers import EPS
from ditscale.training.zero.layout import Layout, Piece

EVERY = 8                                                                      # steps
MOST = 4096
RECENT = 4                                                                     # averages are over about the last quarter of the images seen
SECOND_MOMENT = "exp_avg_sq"
PREFIX = "batch/"
CRITICAL, ADAM = "critical", "_adam"                                           # batch/critical, batch/critical_adam
PARTS = ("gradient", "noise")                                                  # |G|^2 and tr S, logged so that a resumed run goes on from them


class _Samples(NamedTuple):
    """The samples of a piece: from its number ``first`` on at a distance of ``stride``; their places in its flat, and in a vector of all samples."""

    first: int
    stride: int
    in_flat: slice
    at: range

    @classmethod
    def of(cls, piece: Piece, place: slice, stride: int) -> "_Samples":
        first = -piece.start % stride
        begin = place.start + (piece.start + first) // stride
        return cls(first, stride, slice(piece.offset + min(first, piece.numel), piece.offset + piece.numel, stride),
                   range(begin, begin + len(range(first, piece.numel, stride))))


@torch.no_grad()
def _add(squares: Tensor, stride: int, gradient: Tensor) -> None:
    """Adds the squares of a gradient's samples."""
    samples = gradient.reshape(-1)[::stride].float()
    squares.addcmul_(samples, samples)


class NoiseScale:
    """Call ``start`` before a step's first micro batch, ``look`` for each part of its reduced gradient, and ``measure`` before the optimizer's
    step; the last is collective. ``read`` waits for the device."""

    def __init__(self, engine, layout: Layout, config: RunConfig, world: World):
        self.engine, self.layout, self.world, self.device = engine, layout, world, world.device
        self.micro, self.batch = config.micro_batch, config.train.global_batch
        self.is_seen, self.measuring, self.last_images = self.batch > self.micro, False, 0
        self.has_adam = all(SECOND_MOMENT in config.train.optimizer.states_of(name) for name in layout.shapes)
        self.kinds = ("", ADAM) if self.has_adam else ("",)
        self.averages = torch.full((len(self.kinds), len(PARTS)), math.nan, device=self.device)
        places, end = {}, 0                                                    # of each parameter's samples in a vector, and their distance
        for name, shape in layout.shapes.items() if self.is_seen else ():
            stride = stride_of(shape.numel(), MOST)
            begin, end = end, end - (-shape.numel() // stride)
            places[name] = (slice(begin, end), stride)
        self.squares = torch.zeros(end, device=self.device)
        self.sums = {name: (self.squares[place], stride) for name, (place, stride) in places.items()}
        self.mine = {piece: _Samples.of(piece, *places[piece.name]) for piece in layout.mine if self.is_seen}
        counts = torch.tensor([len(own.at) for own in self.mine.values()], dtype=torch.long)
        self.at = self._joined(torch.arange(own.at.start, own.at.stop) for own in self.mine.values()).long()
        shares = [layout.shapes[piece.name].numel() / self.sums[piece.name][0].numel() for piece in self.mine]
        eps = [EPS * engine.module.scales.get(piece.name, Scale()).eps for piece in self.mine]
        self.shares, self.eps = (torch.tensor(values).repeat_interleave(counts).to(self.device) for values in (shares, eps))
        self.reduced: dict[Piece, Tensor] = {}
        self.handles: list = []

    def _joined(self, parts: Iterable[Tensor]) -> Tensor:
        """This rank's samples, from those of its pieces, on the device; a rank of very many may have none."""
        found = list(parts)
        return torch.cat(found).to(self.device) if found else torch.zeros(0, device=self.device)

    def start(self, steps: int) -> None:
        """Before the step that follows ``steps``: lets hooks see its micro batches, if it is one that is measured."""
        self.measuring = self.is_seen and steps % EVERY == 0
        if self.measuring:
            self.squares.zero_()
            self.handles = [p.register_hook(partial(_add, *self.sums[name])) for name, p in self.layout.parameters.items()]

    @torch.no_grad()
    def look(self, piece: Piece, part: Tensor) -> None:
        """A part of the reduced gradient, which stays as it is until ``measure``."""
        if self.measuring:
            own = self.mine[piece]
            self.reduced[piece] = part.reshape(-1)[own.first::own.stride].float()

    @torch.no_grad()
    def measure(self, images_seen: int) -> None:
        """At the end of a step's gradients, which ends at ``images_seen``: adds it to the averages, unless a gradient was not finite."""
        if not self.measuring:
            return
        for handle in self.handles:
            handle.remove()
        self.handles, self.measuring = [], False
        if self.world.size > 1:
            dist.all_reduce(self.squares)
        micro_batches, steps = self.batch // self.micro, self.engine.gradient_accumulation_steps()
        of_micro = self.squares[self.at] * steps**2 / micro_batches            # a loss is divided by its rank's micro batches
        of_batch = self._joined(self.reduced[piece] for piece in self.mine).square()
        self.reduced = {}
        weights = [self.shares, self.shares * self._preconditioner()] if self.has_adam else [self.shares]
        sums = torch.stack([(weight * squares).sum() for weight in weights for squares in (of_micro, of_batch)])
        if self.layout.shards > 1:
            dist.all_reduce(sums)
        found = torch.stack(estimates(sums[::2], sums[1::2], self.micro, self.batch), 1)
        recent = min(1.0, RECENT * (images_seen - self.last_images) / images_seen)
        averages = torch.where(self.averages.isnan(), found, self.averages.lerp(found, recent))
        is_good = torch.isfinite(found).all(1, keepdim=True) & (found != 0).any(1, keepdim=True)
        self.averages, self.last_images = torch.where(is_good, averages, self.averages), images_seen

    def _preconditioner(self) -> Tensor:
        """1 / (sqrt(v) + eps)^2 of this rank's samples; 0 where there was no gradient yet."""
        states = [self.engine.made.optimizer.state[master][SECOND_MOMENT].view(-1) for master in self.layout.masters]
        v = self._joined(states[piece.group][own.in_flat] for piece, own in self.mine.items())
        return torch.where(v > 0, (v.sqrt() + self.eps) ** -2, 0)

    def read(self) -> dict[str, float]:
        """The averages and their ratios by name, of those that are known; a ratio where the gradient's square is above 0."""
        found: dict[str, float] = {}
        for kind, values in zip(self.kinds, self.averages.tolist() if self.is_seen else (), strict=False):
            if not math.isnan(values[0]):
                found |= {f"{PREFIX}{part}{kind}": value for part, value in zip(PARTS, values, strict=True)}
                if values[0] > 0:
                    found[f"{PREFIX}{CRITICAL}{kind}"] = values[1] / values[0]
        return found

    def take_up(self, lines: list[dict]) -> None:
        """Goes on from the averages in the lines of an earlier start."""
        for line in lines[-1:] if self.is_seen else ():
            values = [[line.get(f"{PREFIX}{part}{kind}", math.nan) for part in PARTS] for kind in self.kinds]
            self.averages = torch.tensor(values, device=self.device)
            self.last_images = ((line["images_seen"] // self.batch - 1) // EVERY * EVERY + 1) * self.batch


def estimates(of_micro: Tensor, of_batch: Tensor, micro: int, batch: int) -> tuple[Tensor, Tensor]:
    """(|G|^2, tr S) from mean square norms of gradients of ``micro`` and of ``batch`` images."""
    return (batch * of_batch - micro * of_micro) / (batch - micro), (of_micro - of_batch) / (1 / micro - 1 / batch)
