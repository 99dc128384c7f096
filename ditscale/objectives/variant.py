"""The interface of a variant's config section, and what several variants share: kept tokens, an added decoder. No torch.

A variant is a subclass of ``Variant``: its options are the fields, everything else that ditscale asks of a variant are its class
attributes and methods. Nothing outside ``objectives`` knows a variant by name.

Compute cards are put together from the pieces of ``models/macs.py``. Parts of the DiT itself keep their names (patchify,
conditioning, attention, mlp, head); what a variant adds is one part each. A part holds its own modulations; those of norms outside
the blocks are in ``conditioning``. T tokens, K of them kept: encoders cost by K (plus tokens of their own), decoders by T. A pass
over the patches and over the condition is counted each time that one is made.

Trust tags, on every default that a paper does not print: **[V]** verified in a paper's own text or an official repository,
**[V2]** seen in a second-hand source only, **[M]** from memory or a published relative, **[choice]** ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from ditscale.errors import UserError
from ditscale.models.macs import Backbone, ComputeCard, Parts, added
from ditscale.models.sizes import Size
from ditscale.section import Count, Section

if TYPE_CHECKING:                                                              # both need torch, and config.py needs this module
    from ditscale.config import RunConfig
    from ditscale.models.dit import DiT
    from ditscale.objectives.objective import Objective

PAPER_WIDTH = 384                                                              # from DiT-S up, the papers' fixed sizes hold


class Variant(Section):
    """A training variant. A subclass has a field ``name: Literal["its name"]`` and the options of its own.

    Attributes:
        color, dark_color: in figures, and on the dark page.
        column: its column of the table in ``docs/variants.md``, by row; what is not named there is empty.
        least_tokens: with its default options; 2 where tokens are masked.
        plain_dit: its model is a ``DiT`` with nothing added, which every format of ``ditscale convert`` can hold.
        decoder_parts, head_parts: parts of its card that are neither encoder nor conditioning.
    """

    color: ClassVar[str]
    dark_color: ClassVar[str]
    column: ClassVar[dict[str, str]] = {}
    least_tokens: ClassVar[int] = 1
    plain_dit: ClassVar[bool] = False
    decoder_parts: ClassVar[tuple[str, ...]] = ()
    head_parts: ClassVar[tuple[str, ...]] = ("head",)
    if TYPE_CHECKING:
        name: str

    def check(self, dims: Size, tokens: int, images: int) -> None:
        """Refuse options that do not go with the model's size, its tokens or the training length.

        Raises:
            UserError: the key, the value and what would work.
        """

    def objective(self, config: RunConfig) -> tuple[type[Objective], dict]:
        """The objective's class, and what it takes beyond the arguments of ``Objective``. Imports torch."""
        raise NotImplementedError

    def model(self, dims: Size) -> tuple[type[DiT], dict]:
        """The model's class, and what it takes beyond a DiT's options. Imports torch."""
        raise NotImplementedError

    def card(self, backbone: Backbone, kept: int | None = None) -> ComputeCard:
        """The compute card of a model trained so; ``kept`` is one of ``kept_at``, else the nominal number of kept tokens."""
        raise NotImplementedError

    @property
    def has_teacher(self) -> bool:
        """Whether an average of the student runs forward in each step."""
        return False

    def kept_at(self, tokens: int, images_seen: int, images: int) -> int | None:
        """Tokens that the encoder keeps in the step that follows ``images_seen`` of ``images``, where that follows a schedule (which
        must not fall); None where every step costs the same."""
        return None

    def stage_lr(self, lr: float, images_seen: int, images: int) -> float | None:
        """The learning rate of a stage that has its own, for the batch that follows ``images_seen``; None for the run's schedule.
        ``lr`` is the run's ``train.lr``."""
        return None

    @classmethod
    def least_images(cls, options: dict) -> int:
        """What no run is shorter than, by options that are not validated yet: stages of a fixed length."""
        return 0

    def own_decoder_macs(self, backbone: Backbone) -> int:
        """MACs of one training step's image that the card has among the DiT's own blocks, and that decode."""
        return 0


class DecoderShape(NamedTuple):
    """Blocks added behind the encoder: how many, how wide, with how many heads."""

    depth: int
    width: int
    heads: int


def kept_tokens(tokens: int, ratio: float) -> int:
    """How many of ``tokens`` stay at a mask ratio: ``floor(tokens (1 - ratio))``, as MaskDiT and MDT count, at least one."""
    return max(1, math.floor(tokens * (1 - ratio) + 1e-9))


def check_can_mask(ratio: float, tokens: int) -> None:
    if ratio and tokens == 1:
        raise UserError(f"objective.mask_ratio {ratio} masks none of the model's 1 token; a smaller patch size would give more")


class AddedDecoder(Variant):
    """Decoder blocks added to the encoder. MaskDiT: 8 of width 512 with 16 heads at every size [V].

    That decoder would dwarf the sizes below S, so these get XL's proportions: a quarter of the depth, half the width, heads of
    32 [choice].
    """

    least_tokens = 2
    decoder_parts: ClassVar[tuple[str, ...]] = ("decoder_embed", "decoder")
    if TYPE_CHECKING:
        mask_ratio: float                                                      # each with a default of its own

    decoder_depth: Count | None = Field(None, ge=0)
    decoder_width: Count | None = Field(None, gt=0)
    decoder_heads: Count | None = Field(None, gt=0)

    def decoder(self, dims: Size) -> DecoderShape:
        published = dims.hidden_size >= PAPER_WIDTH
        depth = self.decoder_depth if self.decoder_depth is not None else 8 if published else max(1, dims.depth // 4)
        width = self.decoder_width or (512 if published else dims.hidden_size // 2)
        return DecoderShape(depth, width, self.decoder_heads or max(1, width // 32))

    def decoder_options(self, dims: Size) -> dict[str, int]:
        """As ``MaskedDiT`` takes them."""
        return {f"decoder_{name}": value for name, value in self.decoder(dims)._asdict().items()}

    def check(self, dims: Size, tokens: int, images: int) -> None:
        shape = self.decoder(dims)
        if shape.width % shape.heads or shape.width % 4:
            raise UserError(f"objective.decoder_width {shape.width} must be a multiple of decoder_heads {shape.heads} and of 4")
        check_can_mask(self.mask_ratio, tokens)


def decoder_macs(backbone: Backbone, shape: DecoderShape, tokens: int) -> Parts:
    """An added decoder behind an encoder that saw ``tokens`` tokens: norm and projection to its width, blocks, final layer."""
    projected, blocks = tokens + backbone.added_tokens, backbone.blocks(*shape)
    return added(backbone.norm_macs(backbone.width), {"decoder_embed": projected * backbone.width * shape.width},
                 {"decoder": sum(blocks.macs(backbone.tokens).values())}, backbone.final_macs(shape.width))


def encoder_decoder_parameters(backbone: Backbone, shape: DecoderShape) -> int:
    """A DiT with an added decoder in place of its final layer; the decoder's fixed position table is no parameter."""
    return (backbone.embed_parameters + backbone.blocks().parameters
            + backbone.norm_parameters(backbone.width) + (backbone.width + 1) * shape.width
            + backbone.blocks(*shape).parameters + backbone.final_parameters(shape.width))
