"""MaskDiT (arXiv 2306.09305): options, schedule and compute."""

import math
from typing import Literal

from pydantic import Field

from ditscale.errors import UserError
from ditscale.models.macs import Backbone, ComputeCard, Parts, added, plain_card
from ditscale.models.sizes import Size, parse_model_name
from ditscale.objectives.variant import AddedDecoder, UnmaskedStage, decoder_macs, encoder_decoder_parameters, kept_tokens


class MaskedConfig(AddedDecoder, UnmaskedStage):
    """MaskDiT (arXiv 2306.09305): the encoder sees the kept tokens, an added decoder reconstructs the rest."""

    name: Literal["masked"]
    mask_ratio: float = Field(0.5, ge=0, lt=1)                                 # [V]
    mask_schedule: Literal["constant", "cosine"] = "constant"                  # cosine: from mask_ratio down to 0
    mask_power: float = Field(1.0, gt=0)                                       # of the cosine; the released code: 2 to 6 [V]
    mask_token: Literal["learned", "zero"] = "learned"                         # zero: as released without reconstruction [V]
    reconstruction_weight: float = Field(0.1, ge=0)                            # [V]

    color = "#3a8ac8"
    dark_color = "#62aeea"
    column = {"": "masked (MaskDiT)", "encoder sees": "half", "decoder": "added, 8 x 512", "at masked places": "a mask token",
              "loss terms": "`generative` (visible patches), `reconstruction`", "training only": "mask token",
              "sampling": "encoder and decoder, all tokens"}

    def ratio_at(self, images_seen: int, images: int) -> float:
        """The mask ratio for the batch that follows ``images_seen`` of ``images``."""
        ratio = super().ratio_at(images_seen, images)
        if self.mask_schedule == "constant" or not ratio:
            return ratio
        return ratio * math.cos(math.pi / 2 * images_seen / (images - self.unmasking_images)) ** self.mask_power

    def tied_to_length(self, decay: int) -> list[str]:
        cosine = ["objective.mask_schedule cosine depends on train.images; give constant"]
        return [*(cosine if self.mask_schedule == "cosine" else []), *super().tied_to_length(decay)]

    def check(self, dims: Size, tokens: int, images: int) -> None:
        super().check(dims, tokens, images)
        if self.mask_ratio and not self.decoder(dims).depth:
            raise UserError(f"objective.mask_ratio {self.mask_ratio} with decoder_depth 0: nothing would reconstruct the masked tokens; "
                            "give decoder blocks, or mask_ratio 0, which is the baseline")
        if self.mask_power != 1 and self.mask_schedule != "cosine":
            raise UserError(f"objective.mask_power {self.mask_power} is for mask_schedule cosine; it is {self.mask_schedule}")

    def objective(self, config):
        from ditscale.objectives.masked.objective import Masked

        return Masked, {"options": self, "patch_size": parse_model_name(config.model.name).patch_size, "tokens": config.tokens}

    def model(self, dims: Size):
        """The DiT itself if the decoder has no blocks."""
        from ditscale.models.dit import DiT
        from ditscale.models.masked import MaskedDiT

        if not self.decoder(dims).depth:
            return DiT, {}
        return MaskedDiT, {**self.decoder_options(dims), "mask_token": self.has_mask_token}

    @property
    def has_mask_token(self) -> bool:
        return self.mask_ratio > 0 and self.mask_token == "learned"

    def card(self, backbone: Backbone, kept: int | None = None) -> ComputeCard:
        """The whole DiT is the encoder, followed by an added decoder."""
        kept = kept_tokens(backbone.tokens, self.mask_ratio) if kept is None else kept
        shape = self.decoder(backbone.model.dims)
        if not shape.depth:
            return plain_card(backbone)
        encoder, parameters = backbone.blocks(), encoder_decoder_parameters(backbone, shape)

        def forward(tokens: int) -> Parts:
            return added(backbone.embed_macs(), encoder.macs(tokens), decoder_macs(backbone, shape, tokens))

        mask_token = shape.width if self.has_mask_token else 0
        return ComputeCard(backbone.tokens, parameters + mask_token, parameters, forward(backbone.tokens), forward(kept))
