"""The interface of an auxiliary loss: a section of the config with all of it. No torch at import.

A loss reads the clean images, the noised ones, the model's output, the tokens after one of its blocks (a tap, with or without a head that
sampling never uses), or a teacher. Whatever it computes, it is a function of the images at given positions of the global stream: ranks and micro
batches change nothing. A loss over several images takes them from a fixed ``group`` of successive positions, never from the local batch.

Tags of defaults: [C] read in the authors' code, [R] in their text, [2] in a second-hand source, [choice] ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ditscale.errors import UserError
from ditscale.models.macs import Backbone, Parts
from ditscale.models.sizes import Size
from ditscale.section import Count, Section

if TYPE_CHECKING:                                                              # these need torch, and config.py needs this module
    from torch import Tensor

    from ditscale.config import RunConfig
    from ditscale.objectives.auxiliary.loss import Seen
    from ditscale.randomness import Normal, Uniform


class Auxiliary(Section):
    """An auxiliary loss. A subclass has a field ``name: Literal["its name"]``, a default of ``weight`` and its own options.

    Attributes:
        color, dark_color: of a variant with this loss, in figures, on a light and on a dark background.
        row: its row of the table in ``docs/methods.md``, by column.
        paths: options that are file paths, and no part of a run's id.
        has_teacher: needs an average of the model, ``Seen.teacher``, with the decay ``teacher_momentum``.
    """

    color: ClassVar[str]
    dark_color: ClassVar[str]
    row: ClassVar[dict[str, str]]
    paths: ClassVar[tuple[str, ...]] = ()
    has_teacher: ClassVar[bool] = False
    if TYPE_CHECKING:
        name: str
        weight: float
        teacher_momentum: float

    @property
    def factor(self) -> float:
        """What the loss is multiplied with."""
        return self.weight

    @property
    def feature_file(self) -> str | None:
        """The name of stored features (``data/features.py``) that come with every batch as ``Seen.features``; one loss of a run may read some."""
        return None

    @property
    def images_per_group(self) -> int:
        """Successive images of the stream that the loss compares with each other: a micro batch holds whole groups."""
        return 1

    def check(self, config: RunConfig) -> None:
        """Refuses options that do not fit the run. The framework checks ``tap`` and ``images_per_group``.

        Raises:
            UserError: the message has the key, the value and what would work.
        """

    def check_inputs(self, config: RunConfig) -> None:
        """Refuses files and functions of the loss that are missing or do not fit the run: called before anything starts.

        Raises:
            UserError: as ``check``.
        """
        if self.feature_file:
            from ditscale.objectives.auxiliary.stored import stored_features

            stored_features(self, config)

    def check_plan(self, config: RunConfig) -> None:
        """Refuses files that are there and do not fit; a plan may come before them. Loads no torch.

        Raises:
            UserError: as ``check``.
        """
        if self.feature_file:
            from ditscale.objectives.auxiliary.stored import check_note

            check_note(self, config)

    def tap(self, dims: Size) -> int | None:
        """The block whose tokens are read: after that many blocks. None: none."""
        return None

    def head(self, backbone: Backbone) -> tuple[int, ...]:
        """The widths of the MLP that turns these tokens into ``Seen.tokens``, from the model's width to the output's; (): none."""
        return ()

    def macs(self, backbone: Backbone) -> int:
        """MACs per image of matrix products with a backward pass, beside the head's. Elementwise work is not counted."""
        return 0

    def forward_only_macs(self, backbone: Backbone) -> Parts:
        """MACs per image by part of what runs without a backward pass: a teacher, an encoder."""
        return {}

    def streams(self) -> dict[str, Normal | Uniform]:
        """Random numbers per image, by a name that starts with the loss's own."""
        return {}

    def is_on(self, images_seen: int) -> bool:
        """Whether the step after ``images_seen`` has this loss; one that is switched off stays off."""
        return True

    def changes_at(self) -> int | None:
        """The number of images from which the loss is off; None: never."""
        return None

    def make(self, config: RunConfig) -> Callable[[Seen], Tensor]:
        """The loss as a function of what one micro batch shows: a scalar in fp32, without its weight. Imports torch."""
        return self.loss

    def loss(self, seen: Seen) -> Tensor:
        """The same, for a loss that needs nothing but its options."""
        raise NotImplementedError


class Grouped(Auxiliary):
    """A loss over ``group`` successive images of the stream."""

    group: Count = Field(16, gt=1)

    @property
    def images_per_group(self) -> int:
        return self.group


def early_block(depth: int, share: int, most: int = 8) -> int:
    """``depth / share`` blocks, at least 1 and at most ``most``: the papers' block 8 of L and XL."""
    return max(1, min(most, depth // share))


def check_block(option: str, block: int | None, depth: int) -> None:
    """Raises UserError for a block that the model does not have."""
    if block is not None and not 1 <= block <= depth:
        raise UserError(f"{option} {block}: the model has {depth} blocks; give 1 to {depth}, counted from 1")
