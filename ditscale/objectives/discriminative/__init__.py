"""SD-DiT (arXiv 2403.17004): options, schedules and compute."""

import math
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from ditscale.errors import UserError
from ditscale.models.macs import Backbone, ComputeCard, added
from ditscale.models.sizes import Size, parse_model_name
from ditscale.objectives.variant import PAPER_WIDTH, AddedDecoder, decoder_macs, encoder_decoder_parameters, kept_tokens
from ditscale.section import Count, Width

CLS = 1                                                                        # the class token


class HeadShape(NamedTuple):
    """The projection head: hidden width of its MLP, bottleneck, prototypes."""

    hidden: int
    bottleneck: int
    prototypes: int

    def macs(self, width: int) -> int:
        """MACs for one token of this width: three layers and the product with the prototypes."""
        return width * self.hidden + self.hidden**2 + self.hidden * self.bottleneck + self.bottleneck * self.prototypes

    def parameters(self, width: int) -> int:
        """Its three layers have biases; the prototypes are unit vectors and have none."""
        return self.macs(width) + 2 * self.hidden + self.bottleneck


class DiscriminativeConfig(AddedDecoder):
    """SD-DiT (arXiv 2403.17004). Its code is not public and its full text was not available: the tags say what is known.

    The student encodes the visible tokens of the noisy image, the teacher (an average of the student) all tokens of a cleaner
    point on the same PF-ODE; both are projected to a softmax over prototypes, and the student's is pulled to the teacher's on
    [CLS] and on the visible tokens [V2: iBOT's paradigm]. Only the added decoder has the generative loss [V].
    """

    name: Literal["discriminative"]
    mask_ratio: float = Field(0.2, ge=0, lt=1)                                 # [V2: "about 20 %"]
    teacher_noise: Literal["sigma_min", "same", "uniform_below", "ratio"] = "sigma_min"  # [V2: "t ~ sigma_min"]
    teacher_noise_ratio: float = Field(0.5, gt=0, lt=1)                        # of the student's level, for ``ratio`` [choice]
    shared_noise: bool = True                                                  # the same noise for both views, so they are on one PF-ODE [choice]
    cls_weight: float = Field(1.0, ge=0)                                       # of the [CLS] term [choice]
    patch_weight: float = Field(1.0, ge=0)                                     # of the visible tokens' term [choice]
    student_temperature: float = Field(0.1, gt=0)                              # DINO [V]
    teacher_temperature: float = Field(0.07, gt=0)                             # DINO: 0.04 to 0.07 [M]
    teacher_temperature_start: float = Field(0.04, gt=0)                       # [M]
    teacher_temperature_ramp: float = Field(0.1, ge=0, le=1)                   # share of training; DINO: 30 epochs [M], share [choice]
    teacher_momentum: float = Field(0.9999, ge=0, le=1)                        # SRA measured 0.9999 best [V]; DINO starts at 0.996
    teacher_momentum_schedule: Literal["constant", "cosine"] = "constant"      # cosine: from teacher_momentum to 1, as DINO [M]
    assignment: Literal["centering", "sinkhorn"] = "centering"                 # DINO [V]; sinkhorn as in DINOv2 [choice]
    center_momentum: float = Field(0.9, ge=0, lt=1)                            # DINO [V]
    detach_encoder_for_generation: bool = False                                # stop the generative loss at the encoder [M: off]
    head_hidden: Width | None = None                                           # DINO: 2048 [V]; below S: twice the width [choice]
    head_bottleneck: Width | None = None                                       # DINO: 256 [V]; below S: half the width [choice]
    prototypes: Count | None = Field(None, gt=1, le=1_000_000)                 # iBOT: 8192 [M]; below S: four times the width [choice]

    older_keys = {"centre_momentum": "center_momentum"}
    older_values = {"assignment": {"centring": "centering"}}

    color = "#8a1f47"
    dark_color = "#e0608f"
    decoder_parts = (*AddedDecoder.decoder_parts, "raw_embed")
    head_parts = ("head", "projection_head")
    no_auxiliary = "it has a teacher and a head of its own"
    column = {"": "discriminative (SD-DiT)", "encoder sees": "80 % and [CLS]; a teacher sees all", "decoder": "added, 8 x 512",
              "at masked places": "raw noisy embeddings, no mask token",
              "loss terms": "`generative`, `discriminative_cls`, `discriminative_patch`", "training only": "head, raw embedding, teacher",
              "sampling": "encoder with [CLS] and decoder, all tokens"}

    @property
    def discriminates(self) -> bool:
        """Whether there is a discriminative loss; without it there is no teacher and no head."""
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

    def schedules(self, images_seen: int, images: int) -> dict[str, float | None]:
        own = {"teacher temperature": self.teacher_temperature_at(images_seen, images), "teacher momentum": self.teacher_momentum_at(images_seen, images)}
        return super().schedules(images_seen, images) | (own if self.discriminates else {})

    def tied_to_length(self, decay: int) -> list[str]:
        ramp = [f"objective.teacher_temperature_ramp {self.teacher_temperature_ramp:g} is a share of train.images; give 0"]
        momentum = ["objective.teacher_momentum_schedule cosine depends on train.images; give constant"]
        return [*(ramp if self.teacher_temperature_ramp else []), *(momentum if self.teacher_momentum_schedule == "cosine" else []),
                *super().tied_to_length(decay)]

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
            raise UserError("objective.decoder_depth 0: SD-DiT's generative loss needs the decoder; give it blocks")

    @property
    def has_teacher(self) -> bool:
        return self.discriminates

    def objective(self, config):
        from ditscale.objectives.discriminative.objective import Discriminative

        return Discriminative, {"options": self, "tokens": config.tokens,
                                "prototypes": self.head(parse_model_name(config.model.name).dims).prototypes}

    def model(self, dims: Size):
        from ditscale.models.discriminative import DiscriminativeDiT

        return DiscriminativeDiT, {**self.decoder_options(dims), "masks": self.mask_ratio > 0,
                                   "head": self.head(dims) if self.discriminates else None,
                                   "discriminates": (self.cls_weight > 0, self.patch_weight > 0)}

    def card(self, backbone: Backbone, kept: int | None = None) -> ComputeCard:
        """MaskDiT's layout with [CLS] and raw tokens instead of the mask token; a teacher that encodes all tokens.

        ``detach_encoder_for_generation`` is ignored: it saves a few gradients at the decoder's input, below 0.3 %.
        """
        dims, width, tokens = backbone.model.dims, backbone.width, backbone.tokens
        shape, head, kept = self.decoder(dims), self.head(dims), kept_tokens(tokens, self.mask_ratio)
        encoder = backbone.blocks()
        whole_encoder = added(backbone.embed_macs(), encoder.macs(tokens + CLS))
        trained = added(backbone.embed_macs(), encoder.macs(kept + CLS), decoder_macs(backbone, shape, kept))
        used = encoder_decoder_parameters(backbone, shape) + CLS * width
        parameters, teacher = used, {}
        if self.mask_ratio:
            trained["raw_embed"] = (tokens - kept) * width * shape.width
            parameters += (width + 1) * shape.width
        if self.discriminates:
            projected = (CLS if self.cls_weight else 0) + (kept if self.patch_weight else 0)
            trained["projection_head"] = projected * head.macs(width)
            teacher = added(whole_encoder, {"projection_head": trained["projection_head"]})
            parameters += head.parameters(width)
        return ComputeCard(tokens, parameters, used, added(whole_encoder, decoder_macs(backbone, shape, tokens)), trained, teacher)
