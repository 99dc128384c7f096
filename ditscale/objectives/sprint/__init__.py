"""SPRINT (arXiv 2510.21986): options and compute."""

from typing import Literal

from pydantic import Field

from ditscale.errors import UserError
from ditscale.models.macs import Backbone, ComputeCard, Parts, added, plain_card
from ditscale.models.matrices import BLOCK, WeightMatrix
from ditscale.models.sizes import Size
from ditscale.objectives.variant import UnmaskedStage, check_can_mask, kept_tokens
from ditscale.section import Count

FEWEST_BLOCKS = 3                                                              # one for each part


class SprintConfig(UnmaskedStage):
    """SPRINT (arXiv 2510.21986): the middle blocks see a quarter of the tokens, and a layer fuses their output with the first blocks'."""

    name: Literal["sprint"]
    mask_ratio: float = Field(0.75, ge=0, lt=1)                                # of the middle blocks [V]
    path_drop: float = Field(0.05, ge=0, lt=1)                                 # images without the sparse path; the released config: 0.1 [V]
    encoder_depth: Count | None = Field(None, gt=0)                            # first blocks, over all tokens: 2 [V]; below 12 blocks 1 [choice]
    decoder_depth: Count | None = Field(None, gt=0)                            # last blocks, the same

    color = "#5b3fb0"
    dark_color = "#9a86f5"
    least_tokens = 2
    no_auxiliary = "its middle blocks see only the kept tokens"
    refused_switches = {"value_residual": "its middle blocks see few of the tokens of its first block"}
    decoder_parts = ("fuse",)
    column = {"": "sprint (SPRINT)", "encoder sees": "all in the first 2 blocks, a quarter in the middle", "decoder": "the model's own last 2 blocks",
              "at masked places": "a mask token, fused with the first blocks' output", "loss terms": "`generative`", "training only": "mask token",
              "sampling": "DiT with the fusing layer, all tokens"}

    def depths(self, dims: Size) -> tuple[int, int, int]:
        """Numbers of first, middle and last blocks."""
        default = min(2, max(1, dims.depth // 6))
        first, last = (default if given is None else given for given in (self.encoder_depth, self.decoder_depth))
        return first, dims.depth - first - last, last

    @property
    def left_out(self) -> float:
        return self.mask_ratio

    @property
    def has_mask_token(self) -> bool:
        return self.mask_ratio > 0 or self.path_drop > 0

    def check(self, dims: Size, tokens: int, images: int) -> None:
        super().check(dims, tokens, images)
        first, middle, last = self.depths(dims)
        if dims.depth < FEWEST_BLOCKS:
            raise UserError(f"objective.name sprint needs {FEWEST_BLOCKS} blocks, first, middle and last ones, and the model has {dims.depth}")
        if middle < 1:
            raise UserError(f"objective.encoder_depth {first} and decoder_depth {last} leave no middle: the model has {dims.depth} blocks; "
                            f"together at most {dims.depth - 1}")
        check_can_mask(self.mask_ratio, tokens)

    def objective(self, config):
        from ditscale.objectives.sprint.objective import Sprint

        return Sprint, {"options": self, "tokens": config.tokens}

    def model(self, dims: Size):
        from ditscale.models.sprint import SprintDiT

        first, _, last = self.depths(dims)
        return SprintDiT, {"encoder_depth": first, "decoder_depth": last, "mask_token": self.has_mask_token}

    def card(self, backbone: Backbone, kept: int | None = None) -> ComputeCard:
        """The plain DiT with fewer tokens in its middle, and the fusing layer over all tokens, those of the design included."""
        kept = kept_tokens(backbone.tokens, self.mask_ratio) if kept is None else kept
        width, (first, middle, last) = backbone.width, self.depths(backbone.model.dims)
        outer, inner = backbone.blocks(first + last), backbone.blocks(middle)
        fuse = {"fuse": 2 * width**2 * (backbone.tokens + backbone.added_tokens)}

        def forward(tokens: int) -> Parts:
            return added(backbone.embed_macs(), outer.macs(backbone.tokens), inner.macs(tokens), fuse, backbone.final_macs(width))

        used = plain_card(backbone).parameters + (2 * width + 1) * width
        return ComputeCard(backbone.tokens, used + width * self.has_mask_token, used, forward(backbone.tokens), forward(kept))

    def own_decoder_macs(self, backbone: Backbone) -> int:
        """The model's last blocks over all tokens."""
        return sum(backbone.blocks(self.depths(backbone.model.dims)[2]).macs(backbone.tokens).values())

    def matrices(self, backbone: Backbone) -> list[WeightMatrix]:
        return [*super().matrices(backbone), WeightMatrix(BLOCK, backbone.width, 2 * backbone.width)]
