"""Taps: the tokens behind a block, for a loss in training, with or without a head that sampling never uses.

``tapping`` adds them to the model of any variant. The model's own weights start as without taps, and a pass that asks for none is its own.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, cast

from torch import Tensor, nn

from ditscale.models.dit import DiT, initialize_linears, run
from ditscale.models.linear import Linear

if TYPE_CHECKING:
    from ditscale.models.blocks.modules import Block

HEADS = "auxiliary"                                                            # the module of all heads


class Tap(NamedTuple):
    """The tokens after ``block`` blocks (1: after the first), and the widths of an MLP on them: input, hidden layers, output; () for none."""

    block: int
    widths: tuple[int, ...] = ()


class Head(nn.Sequential):
    """Linear layers with SiLU between, on each token: (B, T, first width) to (B, T, last width)."""

    def __init__(self, widths: tuple[int, ...]):
        layers = [layer for ends in zip(widths, widths[1:]) for layer in (nn.SiLU(), Linear(*ends))]
        super().__init__(*layers[1:])
        initialize_linears(self)


class Tapping(DiT):
    """A mixin before the class of a model, see ``tapping``.

    Args:
        taps: by name.
        options: of the model.
    """

    def __init__(self, *, taps: Mapping[str, Tap], **options):
        super().__init__(**options)
        self.tap_blocks = {name: tap.block for name, tap in taps.items()}
        self.add_module(HEADS, nn.ModuleDict({name: Head(tap.widths) for name, tap in taps.items() if tap.widths}))

    def forward(self, *inputs: Tensor, taps: Iterable[str] = (), **more):
        """As the model's own. With names of ``taps`` also the tokens (B, T, H) of each by name, or what its head makes of them."""
        if not taps:
            return super().forward(*inputs, **more)
        with self._tapped({self.tap_blocks[name] for name in taps}) as tokens:
            output = super().forward(*inputs, **more)
        heads = cast("nn.ModuleDict", self.get_submodule(HEADS))
        found = {name: tokens[self.tap_blocks[name]][0] for name in taps}
        return output, {name: heads[name](value) if name in heads else value for name, value in found.items()}

    @contextmanager
    def _tapped(self, numbers: set[int]) -> Iterator[dict[int, list[Tensor]]]:
        tokens: dict[int, list[Tensor]] = {number: [] for number in numbers}
        blocks = {number: cast("Block", self.blocks[number - 1]) for number in numbers}
        for number, block in blocks.items():
            block.tapped = tokens[number]
        try:
            yield tokens
        finally:
            for block in blocks.values():
                block.tapped = None

    def tokens_after(self, number: int, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """All tokens (B, T, H) after that many blocks; the others are not computed."""
        condition = self.condition(t, y)
        return run(self.blocks[:number], self.embed(x), condition.tokens, condition.c, self.where("rope", condition.tokens))[0]


@functools.cache
def tapping(kind: type[DiT]) -> type[DiT]:
    """The model's class with a further argument ``taps``."""
    return type(f"Tapping{kind.__name__}", (Tapping, kind) if kind is not DiT else (Tapping,), {"training_only": (*kind.training_only, HEADS)})
