"""Gradient norm, clipping, and skipping steps with a non-finite gradient.

All of it stays on the device: torch's fused optimizers take ``grad_scale`` (clipping) and ``found_inf`` (skip the
step) as tensors, so no step waits for the host. The results are read once per log interval. Every rank sees the norm of the full
gradient, so all skip the same steps.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ditscale.errors import TrainingFailed, count
from ditscale.training.zero import zero
from ditscale.training.zero.layout import Layout, Piece

NEVER = -1


@dataclass(frozen=True)
class Found:
    """Summary of the gradients of a log interval."""

    grad_norm: float                                                           # of the last step
    grad_norm_max: float                                                       # the largest finite one
    skipped_steps: int = 0
    in_a_row: int = 0                                                          # skipped steps in a row at the interval's end
    worst_in_a_row: int = 0
    worst_images: int = NEVER                                                  # images seen before the worst row began
    first_images: int = NEVER                                                  # images seen before the first skipped step
    parameter: str = ""                                                        # the parameter with the first bad gradient
    bad_parameters: int = 0                                                    # number with a bad gradient in that step
    parameters: int = 0                                                        # total number

    def describe(self) -> str:
        """One line for the log."""
        return (f"{count(self.skipped_steps, 'step')}, the first after {self.first_images:,} images: the gradient was not finite in "
                f"{self.parameter} ({self.bad_parameters} of {self.parameters} parameters)")


class TooManySkipped(TrainingFailed):
    """``resources.skip_limit`` successive steps had a bad gradient, after ``images`` images."""

    def __init__(self, message: str, images: int):
        super().__init__(message)
        self.images = images


class Guard:
    """Call ``inspect`` before each optimizer step and ``read`` once per log interval; both are collective.

    The backward pass reaches the last parameter first. If a NaN arises in some layer's backward pass, that layer and all before
    it are bad, so the last bad parameter of the model is the one to look at.
    """

    def __init__(self, engine, layout: Layout, device: torch.device, grad_clip: float):
        self.engine, self.layout, self.device, self.grad_clip = engine, layout, device, grad_clip
        order = {name: index for index, name in enumerate(layout.shapes)}
        self.order = torch.tensor([order[piece.name] for piece in layout.mine], dtype=torch.long, device=device)
        self.in_a_row, self.row_images = torch.zeros((2,), dtype=torch.long, device=device).unbind()
        self._restart()

    def _restart(self) -> None:
        """Resets the interval; the current row of skipped steps continues."""
        zero_long = torch.zeros((), dtype=torch.long, device=self.device)
        self.norm, self.norm_max = torch.zeros((2,), device=self.device).unbind()
        self.skipped, self.worst, self.worst_images = zero_long, zero_long, zero_long + NEVER
        self.first_images = zero_long + NEVER
        self.bad = torch.zeros(len(self.layout.shapes), dtype=torch.bool, device=self.device)

    @torch.no_grad()
    def inspect(self, images_seen: int, look: Callable[[Piece, Tensor], None] = lambda piece, part: None) -> None:
        """Measures the reduced gradient, and sets how the optimizer scales it or skips the step. ``look`` is called with each of its parts."""
        norms = fp32_norms(self._parts(look)).to(self.device)
        square = norms.square().sum()
        if self.layout.shards > 1:
            dist.all_reduce(square)
        self.norm = square.sqrt()
        is_bad = ~torch.isfinite(square)
        optimizer = self.engine.made.optimizer
        optimizer.found_inf = is_bad.float()
        if self.grad_clip:
            optimizer.grad_scale = ((self.norm + 1e-6) / self.grad_clip).clamp(min=1.0)
        self._count(is_bad, norms, images_seen)

    def _parts(self, look: Callable[[Piece, Tensor], None]) -> Iterator[Tensor]:
        for piece, part in zero.gradients(self.engine, self.layout):
            look(piece, part)
            yield part

    def _count(self, is_bad: Tensor, norms: Tensor, images_seen: int) -> None:
        is_first = is_bad & (self.first_images == NEVER)
        bad = torch.zeros_like(self.bad)
        bad[self.order] = ~torch.isfinite(norms)
        self.bad = torch.where(is_first, bad, self.bad)
        self.first_images = torch.where(is_first, images_seen, self.first_images)
        self.norm_max = torch.where(is_bad, self.norm_max, torch.maximum(self.norm_max, self.norm))
        self.skipped = self.skipped + is_bad
        self.row_images = torch.where(is_bad & (self.in_a_row == 0), images_seen, self.row_images)
        self.in_a_row = (self.in_a_row + 1) * is_bad
        self.worst_images = torch.where(self.in_a_row > self.worst, self.row_images, self.worst_images)
        self.worst = torch.maximum(self.worst, self.in_a_row)

    @property
    def is_skipping(self) -> bool:
        """Whether the last step was skipped; a checkpoint to go back to must then be kept. Waits for the device."""
        return bool(self.in_a_row)

    def read(self) -> Found:
        """The summary since the last call. Waits for the device."""
        counts = [self.skipped, self.in_a_row, self.worst, self.worst_images, self.first_images]
        skipped, in_a_row, worst, worst_images, first_images = torch.stack(counts).tolist()
        norm, norm_max = torch.stack([self.norm, self.norm_max]).tolist()
        if not skipped:
            self._restart()
            return Found(norm, norm_max)
        bad = self.bad.int()
        if self.layout.shards > 1:
            dist.all_reduce(bad, op=dist.ReduceOp.MAX)
        names = [name for name, is_bad in zip(self.layout.shapes, bad.tolist(), strict=True) if is_bad]
        self._restart()
        return Found(norm, norm_max, skipped, in_a_row, worst, worst_images, first_images, parameter=names[-1] if names else "",
                     bad_parameters=len(names), parameters=len(self.layout.shapes))

    def check(self, found: Found, limit: int, *, at_the_end: bool) -> None:
        """Raises if too many successive steps were skipped; a run that would end with more than one of them is not done.

        Raises:
            TooManySkipped: with a report of where it began.
        """
        rule = f"resources.skip_limit {limit}" if found.worst_in_a_row >= limit else "training ended with them"
        if found.worst_in_a_row >= limit or at_the_end and found.in_a_row > 1:
            raise TooManySkipped(f"{count(found.worst_in_a_row, 'step')} skipped in a row after {found.worst_images:,} images "
                                 f"({rule}); since the last log line {found.describe()}", found.worst_images)


def fp32_norms(parts: Iterable[Tensor]) -> Tensor:
    """The fp32 norm of each tensor. On a CPU BLAS takes two thirds of the time and rounds less."""
    squares, others = [], []
    for part in parts:                                                         # one by one, as new ones are still in the cache
        if part.device.type == "cpu" and part.dtype == torch.float32:
            numbers = part.flatten()
            squares.append(torch.dot(numbers, numbers))
        else:
            others.append(part)
    if squares:
        return torch.stack(squares).sqrt()
    return torch.stack(torch._foreach_norm(others, 2, torch.float32)) if others else torch.zeros(0)
