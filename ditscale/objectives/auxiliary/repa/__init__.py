"""REPA (arXiv 2410.06940): an early block's tokens, through a projector, are aligned with a frozen encoder's features of the clean image."""

import re
from typing import Literal

from pydantic import Field

from ditscale.errors import UserError
from ditscale.models.macs import Backbone
from ditscale.models.sizes import Size
from ditscale.objectives.auxiliary.kind import Auxiliary, early_block
from ditscale.objectives.variant import PAPER_WIDTH
from ditscale.section import Count, Width


class Repa(Auxiliary):
    """``-mean over tokens of cos(P(h), f)``, P a projector of three layers, f the features at the token's place.

    Features come from a file next to the data, or from an encoder in every step. The encoder is a function ``package.module:function`` that makes a
    module; it gets ``encoder_options``, and ``path=encoder_path`` if that is given. The module maps images (B, C, S, S), as the model sees them without
    noise (pixels in [-1, 1]), to features (B, T', feature_width). T' is the number of the model's tokens, or that of another square grid, which is then
    resampled to the model's.
    """

    name: Literal["repa"]
    weight: float = Field(0.5, gt=0)                                           # [C]
    block: Count | None = Field(None, gt=0)                                    # default: a third of the depth, at most 8: B 4, L and XL 8 [C]
    feature_width: Width                                                       # d_f; DINOv2-B: 768
    features: str | None = None                                                # the name of features that `ditscale data features` made of data.path
    encoder: str | None = None                                                 # or package.module:function
    encoder_options: dict[str, str | int | float | bool] = {}
    encoder_path: str | None = None                                            # its weights; like other paths no part of a run's id
    encoder_macs: Count | None = Field(None, ge=0)                             # of one image; 0 leaves them out of the cost
    hidden: Width | None = None                                                # of the projector: 2048 [C]; below S twice the width [choice]
    stop_images: Count | None = Field(None, gt=0)                              # off from this many images on; default: never

    color = "#4a6b1d"
    dark_color = "#9cc25e"
    paths = ("encoder_path",)
    row = {"method": "repa", "added to the loss": "minus the cosine between projected tokens and a frozen encoder's features",
           "read from": "block 4 of B, 8 of L and XL",
           "published": "SiT-XL/2, 400K steps, no guidance: FID 7.9, at 4M 5.9; DiT-XL/2, 400K 12.3 [R]; helps early and hurts from about 200K steps in "
                        "another trainer [2]",
           "caveat": "needs an encoder that saw other data; the encoder's MACs are those of `encoder_macs`"}

    @property
    def feature_file(self) -> str | None:
        return self.features

    def check(self, config):
        from ditscale.data.features import features_path

        if (self.features is None) == (self.encoder is None):
            raise UserError("objective.with repa needs features, the name of a file of features, or encoder, a function package.module:function"
                            + ("" if self.features is None else "; both are given"))
        if self.features is not None:
            own = [key for key in ("encoder_options", "encoder_path", "encoder_macs") if getattr(self, key) not in (None, {})]
            if own:
                raise UserError(f"objective.with repa: {own[0]} has no effect with features; leave it out")
            features_path(config.data.path, self.features, "objective.with repa: features")  # refuses a name that no file can have
        elif self.encoder_macs is None:
            raise UserError("objective.with repa: give encoder_macs, the encoder's MACs per image, so that the cost card has them; 0 leaves them out")
        elif not re.fullmatch(r"[\w.]+:[\w.]+", self.encoder):
            raise UserError(f"objective.with repa: encoder '{self.encoder}' is not of the form package.module:function")
        if self.stop_images is not None and self.stop_images >= config.train.images:
            raise UserError(f"objective.with repa: stop_images {self.stop_images} has no effect, as train.images is {config.train.images}; leave it out")

    def check_inputs(self, config):
        super().check_inputs(config)
        if self.encoder is not None:
            from ditscale.objectives.auxiliary.repa.encoder import check_encoder

            check_encoder(self, config)

    def tap(self, dims: Size) -> int:
        return self.block or early_block(dims.depth, 3)

    def head(self, backbone: Backbone) -> tuple[int, ...]:
        hidden = self.hidden or (2048 if backbone.width >= PAPER_WIDTH else 2 * backbone.width)
        return backbone.width, hidden, hidden, self.feature_width

    def forward_only_macs(self, backbone: Backbone):
        return {"repa_encoder": self.encoder_macs} if self.encoder_macs else {}

    def is_on(self, images_seen: int) -> bool:
        return self.stop_images is None or images_seen < self.stop_images

    def changes_at(self) -> int | None:
        return self.stop_images

    def make(self, config):
        from ditscale.objectives.auxiliary.repa.alignment import Alignment
        from ditscale.objectives.auxiliary.repa.encoder import Encoder

        return Alignment(Encoder(self) if self.features is None else lambda seen: seen.features)
