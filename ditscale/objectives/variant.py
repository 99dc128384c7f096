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

from pydantic import Field, model_validator

from ditscale.errors import UserError
from ditscale.models.macs import Backbone, ComputeCard, Parts, added, make_backbone
from ditscale.models.matrices import WeightMatrix
from ditscale.models.sizes import ModelName, Size, parse_model_name
from ditscale.models.switches import Switches
from ditscale.section import Count, Depth, Section, Width

if TYPE_CHECKING:                                                              # both need torch, and config.py needs this module
    from ditscale.config import RunConfig
    from ditscale.models.dit import DiT
    from ditscale.models.taps import Tap
    from ditscale.objectives.auxiliary.kind import Auxiliary
    from ditscale.objectives.objective import Objective

LARGE = 10**6                                                                  # tokens, to compare kept shares
PAPER_WIDTH = 384                                                              # from DiT-S up, the papers' fixed sizes apply
LABEL_JOIN = "+"                                                               # of a variant's name and those of its auxiliary losses


class Variant(Section):
    """A training variant. A subclass has a field ``name: Literal["its name"]`` and its own options.

    Attributes:
        color, dark_color: in figures, on a light and on a dark background.
        column: its column of the table in ``docs/variants.md``, by row; other rows are empty.
        least_tokens: with its default options; 2 if tokens are masked.
        plain_dit: its model is a ``DiT`` without additions, which every format of ``ditscale convert`` supports.
        decoder_parts, head_parts: parts of its card that are neither encoder nor conditioning.
        no_auxiliary: why it takes no auxiliary losses; one that does is a ``WithAuxiliary`` (``objectives/auxiliary``).
        refused_switches: switches of the backbone that its model cannot have, with the reason.
    """

    color: ClassVar[str]
    dark_color: ClassVar[str]
    column: ClassVar[dict[str, str]] = {}
    least_tokens: ClassVar[int] = 1
    plain_dit: ClassVar[bool] = False
    decoder_parts: ClassVar[tuple[str, ...]] = ()
    head_parts: ClassVar[tuple[str, ...]] = ("head",)
    no_auxiliary: ClassVar[str] = "it was not made for them"
    refused_switches: ClassVar[dict[str, str]] = {}
    if TYPE_CHECKING:
        name: str

    @model_validator(mode="before")
    @classmethod
    def _check_with(cls, values):
        if isinstance(values, dict) and "with" in values and "with" not in cls.model_fields:
            raise UserError(f"objective.with is not for objective {values.get('name')}: {cls.no_auxiliary}; use baseline, or leave it out")
        return values

    @property
    def auxiliary(self) -> tuple[Auxiliary, ...]:
        """The auxiliary losses, in the order of the config."""
        return ()

    @property
    def label(self) -> str:
        """The variant in tables and figures: its name, and those of its auxiliary losses."""
        return LABEL_JOIN.join((self.name, *(one.name for one in self.auxiliary)))

    @property
    def paths(self) -> dict[str, dict[int, set[str]]]:
        """Options that are file paths, and no part of a run's id, as pydantic's ``exclude`` takes them."""
        return {}

    @property
    def images_per_group(self) -> int:
        """Successive images of the stream that its loss compares with each other: a micro batch holds whole groups."""
        return 1

    def has_all_tokens(self, block: int, depth: int) -> bool:
        """Whether the training pass computes the output of this block, 1 to ``depth``, for every token."""
        return True

    def check(self, dims: Size, tokens: int, images: int) -> None:
        """Refuses options that do not fit the model's size, its tokens or the training length.

        Raises:
            UserError: the message has the key, the value and what would work.
        """

    def check_run(self, config: RunConfig) -> None:
        """Refuses options that do not fit another section of the run.

        Raises:
            UserError: as ``check``.
        """
    def check_switches(self, switches: Switches, dims: Size) -> None:
        """Refuses switches of the backbone that its model cannot have.

        Raises:
            UserError: the message has the key and the reason.
        """
        for name, reason in self.refused_switches.items():
            if name in switches.given:
                raise UserError(f"model.{name} {str(switches.given[name]).lower()} with objective {self.name}: {reason}; leave it out")

    def objective(self, config: RunConfig) -> tuple[type[Objective], dict]:
        """The objective's class, and its arguments beyond those of ``Objective``. Imports torch."""
        raise NotImplementedError

    def model(self, dims: Size) -> tuple[type[DiT], dict]:
        """The model's class, and its arguments beyond a DiT's options. Imports torch."""
        raise NotImplementedError

    def taps(self, backbone: Backbone) -> dict[str, Tap]:
        """The taps of the model, by auxiliary loss. Imports torch."""
        return {}

    def card(self, backbone: Backbone, kept: int | None = None) -> ComputeCard:
        """The compute card of a model trained with this variant; ``kept`` is from ``kept_at``, by default the nominal number of kept tokens."""
        raise NotImplementedError

    def whole_card(self, backbone: Backbone, kept: int | None = None, images_seen: int = 0) -> ComputeCard:
        """``card`` with the auxiliary losses of the step after ``images_seen``; their heads' parameters are counted in all steps."""
        return self.card(backbone, kept)

    def changes_at(self) -> list[int]:
        """The numbers of images, ascending, from which auxiliary losses are off: ``whole_card`` changes there."""
        return []

    def matrices(self, backbone: Backbone) -> list[WeightMatrix]:
        """The weight matrices of the trained model; here those of the DiT."""
        return [*backbone.blocks().matrices, *backbone.final_matrices(backbone.width)]

    @property
    def left_out(self) -> float:
        """The nominal share of tokens that a training pass leaves out of the encoder, or of some of its blocks; 0 if none."""
        return 0.0

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

    def tied_to_length(self, decay: int) -> list[str]:
        """The options by which ``schedules`` depend on the length more than ``decay`` images before its end: key, value and what would not."""
        return []

    @classmethod
    def least_images(cls, options: dict) -> int:
        """The minimum length of a run given its options (not validated yet), due to stages of a fixed length."""
        return 0

    def own_decoder_macs(self, backbone: Backbone) -> int:
        """MACs per image of a training step that the card counts among the DiT's blocks and that belong to the decoder."""
        return 0


def backbone_of(config: RunConfig, model: ModelName | None = None) -> Backbone:
    """The backbone of a run's model, or of another one under its config."""
    return make_backbone(model or parse_model_name(config.model.name), resolution=config.data.resolution, channels=config.data.channels,
                         classes=config.data.classes, class_dropout_prob=config.model.class_dropout_prob,
                         learn_sigma=config.formulation.learn_sigma, block=config.model.block, **config.model.switches.given)


class DecoderShape(NamedTuple):
    """Blocks added after the encoder: number, width and heads."""

    depth: int
    width: int
    heads: int


def kept_tokens(tokens: int, ratio: float) -> int:
    """How many of ``tokens`` are kept at a mask ratio: ``floor(tokens (1 - ratio))``, as in MaskDiT and MDT, at least one."""
    return max(1, math.floor(tokens * (1 - ratio) + 1e-9))


def check_can_mask(ratio: float, tokens: int, key: str = "mask_ratio") -> None:
    if ratio and tokens == 1:
        raise UserError(f"objective.{key} {ratio} masks none of the model's 1 token; a smaller patch size would give more")


class UnmaskedStage(Variant):
    """The last images of training are trained on without a mask, at a constant learning rate of their own."""

    unmasking_images: Count = Field(0, ge=0)                                   # the last images of training are not masked
    unmasking_lr: float | None = Field(None, gt=0)                             # in that stage; default half of train.lr: MaskDiT's [V]

    def ratio_at(self, images_seen: int, images: int) -> float:
        """The share of tokens left out of the batch that follows ``images_seen`` of ``images``."""
        return 0.0 if images_seen >= images - self.unmasking_images else self.left_out

    def kept_at(self, tokens: int, images_seen: int, images: int) -> int:
        return kept_tokens(tokens, self.ratio_at(images_seen, images))

    def tied_to_length(self, decay: int) -> list[str]:
        if self.unmasking_images <= decay:
            return []
        return [f"objective.unmasking_images {self.unmasking_images} reaches before the last {decay} images, the decay; give at most {decay}"]

    def stage_lr(self, lr: float, images_seen: int, images: int) -> float | None:
        """The learning rate of the last ``unmasking_images``."""
        return (self.unmasking_lr or lr / 2) if images_seen >= images - self.unmasking_images else None

    @classmethod
    def least_images(cls, options: dict) -> int:
        return options.get("unmasking_images", 0)

    def check(self, dims: Size, tokens: int, images: int) -> None:
        super().check(dims, tokens, images)
        if self.unmasking_images > images:
            raise UserError(f"objective.unmasking_images {self.unmasking_images} is more than train.images {images}")
        if self.unmasking_lr is not None and not self.unmasking_images:
            raise UserError(f"objective.unmasking_lr {self.unmasking_lr} has no effect without objective.unmasking_images")


class AddedDecoder(Variant):
    """Decoder blocks added to the encoder. MaskDiT: 8 of width 512 with 16 heads at every size [V].

    That decoder would be larger than the sizes below S, so these get XL's proportions: a quarter of the depth, half the width, heads of
    32 [choice].
    """

    least_tokens = 2
    decoder_parts: ClassVar[tuple[str, ...]] = ("decoder_embed", "decoder")
    no_auxiliary: ClassVar[str] = "its encoder sees only the kept tokens"
    if TYPE_CHECKING:
        mask_ratio: float                                                      # subclasses set its default

    decoder_depth: Depth | None = None
    decoder_width: Width | None = None
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

    @property
    def left_out(self) -> float:
        return self.mask_ratio
    def check_switches(self, switches: Switches, dims: Size) -> None:
        super().check_switches(switches, dims)
        shape = self.decoder(dims)
        switches.check_head(shape.width, shape.heads, "objective.decoder_width")

    def check(self, dims: Size, tokens: int, images: int) -> None:
        super().check(dims, tokens, images)
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
