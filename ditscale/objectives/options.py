"""The options of each training variant, and what follows from them in numbers: kept tokens, decoder and head sizes. No torch.

Trust tags, on every default that a paper does not print: **[V]** verified in a paper's own text or an official repository,
**[V2]** seen in a second-hand source only, **[M]** from memory or a published relative, **[choice]** ours.
"""

import math
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from ditscale.errors import UserError
from ditscale.models.sizes import Size
from ditscale.section import Count, Section

PAPER_WIDTH = 384                                                              # from DiT-S up, the papers' fixed sizes hold


class DecoderShape(NamedTuple):
    """Blocks added behind the encoder: how many, how wide, with how many heads."""

    depth: int
    width: int
    heads: int


class HeadShape(NamedTuple):
    """The projection head: hidden width of its MLP, bottleneck, prototypes."""

    hidden: int
    bottleneck: int
    prototypes: int


def kept_tokens(tokens: int, ratio: float) -> int:
    """How many of ``tokens`` stay at a mask ratio: ``floor(tokens (1 - ratio))``, as MaskDiT and MDT count, at least one."""
    return max(1, math.floor(tokens * (1 - ratio) + 1e-9))


class BaselineConfig(Section):
    """Plain DiT training: one forward over all tokens."""

    name: Literal["baseline"]

    def check(self, dims: Size, tokens: int, images: int) -> None:
        pass


class AddedDecoder(Section):
    """Decoder blocks added to the encoder. MaskDiT: 8 of width 512 with 16 heads at every size [V].

    That decoder would dwarf the sizes below S, so these get XL's proportions: a quarter of the depth, half the width, heads of
    32 [choice].
    """

    decoder_depth: Count | None = Field(None, ge=0)
    decoder_width: Count | None = Field(None, gt=0)
    decoder_heads: Count | None = Field(None, gt=0)

    def decoder(self, dims: Size) -> DecoderShape:
        published = dims.hidden_size >= PAPER_WIDTH
        depth = self.decoder_depth if self.decoder_depth is not None else 8 if published else max(1, dims.depth // 4)
        width = self.decoder_width or (512 if published else dims.hidden_size // 2)
        return DecoderShape(depth, width, self.decoder_heads or max(1, width // 32))

    def check(self, dims: Size, tokens: int, images: int) -> None:
        shape = self.decoder(dims)
        if shape.width % shape.heads or shape.width % 4:
            raise UserError(f"objective.decoder_width {shape.width} must be a multiple of decoder_heads {shape.heads} and of 4")
        _check_can_mask(self.mask_ratio, tokens)


class MaskedConfig(AddedDecoder):
    """MaskDiT (arXiv 2306.09305): the encoder sees the kept tokens, an added decoder reconstructs the rest."""

    name: Literal["masked"]
    mask_ratio: float = Field(0.5, ge=0, lt=1)                                 # [V]
    mask_schedule: Literal["constant", "cosine"] = "constant"                  # cosine: from mask_ratio down to 0
    mask_power: float = Field(1.0, gt=0)                                       # of the cosine; the released code: 2 to 6 [V]
    mask_token: Literal["learned", "zero"] = "learned"                         # zero: as released without reconstruction [V]
    reconstruction_weight: float = Field(0.1, ge=0)                            # [V]
    unmasking_images: Count = Field(0, ge=0)                                   # the last so many images are seen whole
    unmasking_lr: float | None = Field(None, gt=0)                             # in that stage; default half of train.lr [V]

    def ratio_at(self, images_seen: int, images: int) -> float:
        """The mask ratio for the batch that follows ``images_seen`` of ``images``."""
        masked = images - self.unmasking_images
        if images_seen >= masked:
            return 0.0
        if self.mask_schedule == "constant":
            return self.mask_ratio
        return self.mask_ratio * math.cos(math.pi / 2 * images_seen / masked) ** self.mask_power

    def check(self, dims: Size, tokens: int, images: int) -> None:
        super().check(dims, tokens, images)
        if self.mask_ratio and not self.decoder(dims).depth:
            raise UserError(f"objective.mask_ratio {self.mask_ratio} with decoder_depth 0: nothing would bring the masked tokens "
                            "back; give decoder blocks, or mask_ratio 0, which is the baseline")
        if self.mask_power != 1 and self.mask_schedule != "cosine":
            raise UserError(f"objective.mask_power {self.mask_power} is for mask_schedule cosine; it is {self.mask_schedule}")
        if self.unmasking_images > images:
            raise UserError(f"objective.unmasking_images {self.unmasking_images} is more than train.images {images}")
        if self.unmasking_lr is not None and not self.unmasking_images:
            raise UserError(f"objective.unmasking_lr {self.unmasking_lr} does nothing without objective.unmasking_images")


class MdtConfig(Section):
    """MDT (arXiv 2303.14389): a full and a masked pass, the model's own last blocks as decoder."""

    name: Literal["mdt"]
    mask_ratio: float = Field(0.3, gt=0, lt=1)                                 # [V]
    mask_ratio_max: float | None = Field(None, gt=0, lt=1)                     # drawn a step from mask_ratio to this; MDTv2: 0.5 [V]
    decoder_depth: Count = Field(2, gt=0)                                      # [V]; MDTv2: 6 at S/2, 4 at XL/2 [V]
    long_skips: bool = False                                                   # MDTv2 [V]
    shared_draws: bool = False                                                 # one noise and label drop for both passes; two [V]

    def check(self, dims: Size, tokens: int, images: int) -> None:
        if self.decoder_depth >= dims.depth:
            raise UserError(f"objective.decoder_depth {self.decoder_depth} leaves no encoder: the model has {dims.depth} blocks, "
                            f"of which the last decoder_depth are the decoder; at most {dims.depth - 1}")
        if self.mask_ratio_max is not None and self.mask_ratio_max <= self.mask_ratio:
            raise UserError(f"objective.mask_ratio_max {self.mask_ratio_max} is not above mask_ratio {self.mask_ratio}")
        _check_can_mask(self.mask_ratio, tokens)


class DiscriminativeConfig(AddedDecoder):
    """SD-DiT (arXiv 2403.17004). No code of it is public and its full text could not be had: each tag says what is known.

    The student encodes the visible tokens of the noisy image, the teacher (an average of the student) all tokens of a cleaner
    point on the same PF-ODE; both are projected to a softmax over prototypes, and the student's is pulled to the teacher's on
    [CLS] and on the visible tokens [V2: iBOT's paradigm]. The added decoder alone carries the generative loss [V].
    """

    name: Literal["discriminative"]
    mask_ratio: float = Field(0.2, ge=0, lt=1)                                 # [V2: "about 20 %"]
    teacher_noise: Literal["sigma_min", "same", "uniform_below", "ratio"] = "sigma_min"  # [V2: "t ~ sigma_min"]
    teacher_noise_ratio: float = Field(0.5, gt=0, lt=1)                        # of the student's level, for ``ratio`` [choice]
    shared_noise: bool = True                                                  # one noise for both views: the PF-ODE of one image [choice]
    cls_weight: float = Field(1.0, ge=0)                                       # of the [CLS] term [choice]
    patch_weight: float = Field(1.0, ge=0)                                     # of the visible tokens' term [choice]
    student_temperature: float = Field(0.1, gt=0)                              # DINO [V]
    teacher_temperature: float = Field(0.07, gt=0)                             # DINO: 0.04 to 0.07 [M]
    teacher_temperature_start: float = Field(0.04, gt=0)                       # [M]
    teacher_temperature_ramp: float = Field(0.1, ge=0, le=1)                   # share of training; DINO: 30 epochs [M], share [choice]
    teacher_momentum: float = Field(0.9999, ge=0, le=1)                        # SRA measured 0.9999 best [V]; DINO starts at 0.996
    teacher_momentum_schedule: Literal["constant", "cosine"] = "constant"      # cosine: from teacher_momentum to 1, as DINO [M]
    assignment: Literal["centring", "sinkhorn"] = "centring"                   # DINO [V]; sinkhorn as in DINOv2 [choice]
    centre_momentum: float = Field(0.9, ge=0, lt=1)                            # DINO [V]
    detach_encoder_for_generation: bool = False                                # stop the generative loss at the encoder [M: off]
    head_hidden: Count | None = Field(None, gt=0)                              # DINO: 2048 [V]; below S: twice the width [choice]
    head_bottleneck: Count | None = Field(None, gt=0)                          # DINO: 256 [V]; below S: half the width [choice]
    prototypes: Count | None = Field(None, gt=1)                               # iBOT: 8192 [M]; below S: four times the width [choice]

    @property
    def discriminates(self) -> bool:
        """Whether there is a discriminative loss; without it there is no teacher and no head either."""
        return self.cls_weight > 0 or self.patch_weight > 0

    def head(self, dims: Size) -> HeadShape:
        width, published = dims.hidden_size, dims.hidden_size >= PAPER_WIDTH
        return HeadShape(self.head_hidden or (2048 if published else 2 * width),
                         self.head_bottleneck or (256 if published else width // 2),
                         self.prototypes or (8192 if published else 4 * width))

    def teacher_temperature_at(self, images_seen: int, images: int) -> float:
        """The linear warm-up of DINO's teacher temperature."""
        ramp = self.teacher_temperature_ramp * images
        share = min(1.0, images_seen / ramp) if ramp else 1.0
        return self.teacher_temperature_start + share * (self.teacher_temperature - self.teacher_temperature_start)

    def teacher_momentum_at(self, images_seen: int, images: int) -> float:
        """The teacher's decay for the step that ends at ``images_seen``."""
        if self.teacher_momentum_schedule == "constant":
            return self.teacher_momentum
        return 1 - (1 - self.teacher_momentum) * (math.cos(math.pi * images_seen / images) + 1) / 2

    @model_validator(mode="after")
    def _check_options(self):
        if self.teacher_noise != "ratio" and self.teacher_noise_ratio != 0.5:
            raise UserError(f"objective.teacher_noise_ratio is for teacher_noise ratio; it is {self.teacher_noise}")
        if self.detach_encoder_for_generation and not self.discriminates:
            raise UserError("objective.detach_encoder_for_generation with cls_weight 0 and patch_weight 0: nothing would train the "
                            "encoder")
        return self

    def check(self, dims: Size, tokens: int, images: int) -> None:
        super().check(dims, tokens, images)
        if not self.decoder(dims).depth:
            raise UserError("objective.decoder_depth 0: SD-DiT's generative loss is the decoder's; give it blocks")


def _check_can_mask(ratio: float, tokens: int) -> None:
    if ratio and tokens == 1:
        raise UserError(f"objective.mask_ratio {ratio} masks none of the model's 1 token; a smaller patch size would give more")


OBJECTIVES = {"baseline": BaselineConfig, "masked": MaskedConfig, "mdt": MdtConfig, "discriminative": DiscriminativeConfig}
