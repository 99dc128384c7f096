"""The interface of a variant's config section, and what several variants share: kept tokens, an added decoder. No torch.

A variant is a subclass of ``Variant``: its options are the fields, everything else that ditscale needs from a variant are its class
attributes and methods. Nothing outside ``objectives`` refers to a variant by name.

Compute cards are built from the pieces of ``models/macs.py``. Parts of the DiT itself keep their names (patchify,
conditioning, attention, mlp, head); each addition of a variant is one part. A part includes its own modulations; those of norms outside
the blocks are in ``conditioning``. T tokens, K of them kept: encoders' cost depends on K (plus their extra tokens), decoders' on T. A pass
over the patches and over the condition is counted each time it is computed.

Trust tags, on every default that a paper does not print: **[V]** verified in a paper's own text or an official repository,
**[V2]** seen only in a second-hand source, **[M]** from memory or a related publication, **[choice]** ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from ditscale.errors import UserError
from ditscale.models.macs import Backbone, ComputeCard, Parts, added
from ditscale.models.matrices import WeightMatrix
from ditscale.models.sizes import Size
from ditscale.section import Count, Section

if TYPE_CHECKING:                                                              # both need torch, and config.py needs this module
    from ditscale.config import RunConfig
    from ditscale.models.dit import DiT
    from ditscale.objectives.objective import Objective

LARGE = 10**6                                                                  # tokens, to compare kept shares
PAPER_WIDTH = 384                                                              # from DiT-S up, the papers' fixed sizes apply


class Variant(Section):
    """A training variant. A subclass has a field ``name: Literal["its name"]`` and its own options.

    Attributes:
        color, dark_color: in figures, on a light and on a dark background.
        column: its column of the table in ``docs/variants.md``, by row; other rows are empty.
        least_tokens: with its default options; 2 if tokens are masked.
        plain_dit: its model is a ``DiT`` without additions, which every format of ``ditscale convert`` supports.
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
        """Refuses options that do not fit the model's size, its tokens or the training length.

        Raises:
            UserError: the message has the key, the value and what would work.
        """

    def objective(self, config: RunConfig) -> tuple[type[Objective], dict]:
        """The objective's class, and its arguments beyond those of ``Objective``. Imports torch."""
        raise NotImplementedError

    def model(self, dims: Size) -> tuple[type[DiT], dict]:
        """The model's class, and its arguments beyond a DiT's options. Imports torch."""
        raise NotImplementedError

    def card(self, backbone: Backbone, kept: int | None = None) -> ComputeCard:
        """The compute card of a model trained with this variant; ``kept`` is from ``kept_at``, by default the nominal number of kept tokens."""
        raise NotImplementedError

    def matrices(self, backbone: Backbone) -> list[WeightMatrix]:
        """The weight matrices of the trained model; here those of the DiT."""
        return [*backbone.blocks().matrices, *backbone.final_matrices(backbone.width)]

    @property
    def has_teacher(self) -> bool:
        """Whether an average of the student runs a forward pass in each step."""
        return False

    def kept_at(self, tokens: int, images_seen: int, images: int) -> int | None:
        """Tokens that the encoder keeps in the step after ``images_seen`` of ``images``, if there is a schedule (which
        must not decrease); None if every step costs the same."""
        return None

    def stage_lr(self, lr: float, images_seen: int, images: int) -> float | None:
        """The learning rate of a stage with its own rate, for the batch after ``images_seen``; None for the run's schedule.
        ``lr`` is the run's ``train.lr``."""
        return None

    def schedules(self, images_seen: int, images: int) -> dict[str, float | None]:
        """Every value of a step's that depends on the images seen and perhaps on the length ``images``, by name. Runs of several lengths can share
        their beginning where all are equal."""
        return {"share of kept tokens": self.kept_at(LARGE, images_seen, images), "stage rate": self.stage_lr(1.0, images_seen, images)}

    @classmethod
    def least_images(cls, options: dict) -> int:
        """The minimum length of a run given its options (not validated yet), due to stages of a fixed length."""
        return 0

    def own_decoder_macs(self, backbone: Backbone) -> int:
        """MACs per image of a training step that the card counts among the DiT's blocks and that belong to the decoder."""
        return 0


class DecoderShape(NamedTuple):
    """Blocks added after the encoder: number, width and heads."""

    depth: int
    width: int
    heads: int


def kept_tokens(tokens: int, ratio: float) -> int:
    """How many of ``tokens`` are kept at a mask ratio: ``floor(tokens (1 - ratio))``, as in MaskDiT and MDT, at least one."""
    return max(1, math.floor(tokens * (1 - ratio) + 1e-9))


def check_can_mask(ratio: float, tokens: int) -> None:
    if ratio and tokens == 1:
        raise UserError(f"objective.mask_ratio {ratio} masks none of the model's 1 token; a smaller patch size would give more")


class AddedDecoder(Variant):
    """Decoder blocks added to the encoder. MaskDiT: 8 of width 512 with 16 heads at every size [V].

    That decoder would be larger than the sizes below S, so these get XL's proportions: a quarter of the depth, half the width, heads of
    32 [choice].
    """

    least_tokens = 2
    decoder_parts: ClassVar[tuple[str, ...]] = ("decoder_embed", "decoder")
    if TYPE_CHECKING:
        mask_ratio: float                                                      # subclasses set its default

    decoder_depth: Count | None = Field(None, ge=0)
    decoder_width: Count | None = Field(None, gt=0)
    decoder_heads: Count | None = Field(None, gt=0)

    def decoder(self, dims: Size) -> DecoderShape:
        published = dims.hidden_size >= PAPER_WIDTH
        depth = self.decoder_depth if self.decoder_depth is not None else 8 if published else max(1, dims.depth // 4)
        width = self.decoder_width or (512 if published else dims.hidden_size // 2)
        return DecoderShape(depth, width, self.decoder_heads or max(1, width // 32))

    def decoder_options(self, dims: Size) -> dict[str, int]:
        """As arguments of ``MaskedDiT``."""
        return {f"decoder_{name}": value for name, value in self.decoder(dims)._asdict().items()}

    def matrices(self, backbone: Backbone) -> list[WeightMatrix]:
        shape = self.decoder(backbone.model.dims)
        if not shape.depth:
            return super().matrices(backbone)
        return [*backbone.blocks().matrices, *backbone.norm_matrices(backbone.width), *backbone.blocks(*shape).matrices,
                *backbone.final_matrices(shape.width)]

    def check(self, dims: Size, tokens: int, images: int) -> None:
        shape = self.decoder(dims)
        if shape.width % shape.heads or shape.width % 4:
            raise UserError(f"objective.decoder_width {shape.width} must be a multiple of decoder_heads {shape.heads} and of 4")
        check_can_mask(self.mask_ratio, tokens)


def decoder_macs(backbone: Backbone, shape: DecoderShape, tokens: int) -> Parts:
    """An added decoder after an encoder with ``tokens`` tokens: norm and projection to its width, blocks, final layer."""
    projected, blocks = tokens + backbone.added_tokens, backbone.blocks(*shape)
    return added(backbone.norm_macs(backbone.width), {"decoder_embed": projected * backbone.width * shape.width},
                 {"decoder": sum(blocks.macs(backbone.tokens).values())}, backbone.final_macs(shape.width))


def encoder_decoder_parameters(backbone: Backbone, shape: DecoderShape) -> int:
    """A DiT with an added decoder instead of its final layer; the decoder's fixed position embedding is not a parameter."""
    return (backbone.embed_parameters + backbone.blocks().parameters
            + backbone.norm_parameters(backbone.width) + (backbone.width + 1) * shape.width
            + backbone.blocks(*shape).parameters + backbone.final_parameters(shape.width))
