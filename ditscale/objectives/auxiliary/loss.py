"""Any variant's objective with auxiliary losses: one pass of the model, whose tokens they read."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ditscale.diffusion.formulation import Formulation, wide
from ditscale.objectives.auxiliary.kind import Auxiliary
from ditscale.objectives.objective import CleanBatch, Noised, Objective, Terms


class Seen(NamedTuple):
    """One micro batch, as an auxiliary loss sees it.

    Shapes: ``clean`` (B, C, S, S); ``output`` the raw network output; ``tokens`` (B, T, H) of the loss's tap, after its head, or None without a tap,
    both in fp32 at least; ``teacher`` a ``Tapping`` model of averaged weights, or None; ``features`` (B, T', d) as stored, or None.
    """

    clean: Tensor
    noised: Noised
    output: Tensor
    tokens: Tensor | None
    draws: dict[str, Tensor]
    formulation: Formulation
    teacher: Any
    features: Tensor | None = None


class Made(NamedTuple):
    """An auxiliary loss of a run: its options, and its function."""

    options: Auxiliary
    function: Callable[[Seen], Tensor]
    has_tap: bool


class WithLosses(Objective):
    """A mixin before the class of a variant's objective, see ``with_losses``.

    Args:
        auxiliary: the losses, in the order of the config.
    """

    def __init__(self, *args, auxiliary: list[Made], **settings):
        super().__init__(*args, **settings)
        self.auxiliary = auxiliary
        for made in auxiliary:
            self.streams |= made.options.streams()
            self.has_teacher = self.has_teacher or made.options.has_teacher

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> Terms:
        active = [made for made in self.auxiliary if made.options.is_on(batch.images_seen)]
        recorder = Recorder(model, tuple(made.options.name for made in active if made.has_tap))
        terms = super().__call__(recorder, batch, draws)
        noised = self.noised(batch, draws)
        losses = dict(terms.losses)
        for made in active:
            tokens = wide(recorder.tokens[made.options.name]) if made.has_tap else None
            seen = Seen(batch.images, noised, wide(recorder.output), tokens, draws, self.formulation, self.teacher,
                        batch.features)
            losses[made.options.name] = made.options.factor * made.function(seen)
        return Terms(losses, terms.watched)

    def teacher_momentum_at(self, images_seen: int) -> float:
        [momentum] = {made.options.teacher_momentum for made in self.auxiliary if made.options.has_teacher}
        return momentum


class Recorder:
    """A model that keeps the output and the tapped tokens of its one pass."""

    def __init__(self, model, taps: tuple[str, ...]):
        self.model, self.taps = model, taps
        self.output: Tensor
        self.tokens: dict[str, Tensor] = {}

    def __call__(self, *inputs: Tensor, **more) -> Tensor:
        if self.taps:
            self.output, self.tokens = self.model(*inputs, taps=self.taps, **more)
        else:
            self.output = self.model(*inputs, **more)
        return self.output


@functools.cache
def with_losses(kind: type[Objective]) -> type[Objective]:
    """The objective's class with a further argument ``auxiliary``."""
    return type(f"{kind.__name__}WithLosses", (WithLosses, kind), {})
