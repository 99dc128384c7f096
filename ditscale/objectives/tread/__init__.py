"""TREAD (arXiv 2501.04765): options and compute."""

from typing import Literal

from pydantic import Field

from ditscale.errors import UserError
from ditscale.models.macs import Backbone, ComputeCard, added, plain_card
from ditscale.models.sizes import Size
from ditscale.objectives.auxiliary import WithAuxiliary
from ditscale.objectives.variant import check_can_mask, kept_tokens
from ditscale.section import Count


class TreadConfig(WithAuxiliary):
    """TREAD (arXiv 2501.04765): in training, a random share of tokens skips some blocks and comes back unchanged. Nothing is added to the DiT."""

    name: Literal["tread"]
    ratio: float = Field(0.5, gt=0, lt=1)                                      # share of tokens that skip the blocks [V]
    start: Count | None = Field(None, ge=0)                                    # the first block that they skip, counted from 0; default: ``route``
    end: Count | None = Field(None, ge=0)                                      # the last one

    color = "#2a7a55"
    dark_color = "#4fae78"
    least_tokens = 2
    refused_switches = {"value_residual": "its tokens skip blocks, so that blocks after the first see tokens whose first values they do not have"}
    plain_dit = True
    column = {"": "tread (TREAD)", "encoder sees": "all; in blocks 2 to 8 of 12 half", "decoder": "none",
              "at masked places": "the tokens as they were before these blocks", "loss terms": "`generative`", "sampling": "DiT"}

    def route(self, depth: int) -> tuple[int, int]:
        """The first and the last block that tokens skip. Default: a sixth of the depth before them, at most 2 blocks, and a quarter after
        them, at most 3: the paper's from 2 to depth - 4 for 12 blocks and more [V]; for fewer, the same shares [choice]."""
        start = min(2, _rounded(depth, 6)) if self.start is None else self.start
        return start, depth - 1 - min(3, _rounded(depth, 4)) if self.end is None else self.end

    @property
    def left_out(self) -> float:
        return self.ratio

    def has_all_tokens(self, block: int, depth: int) -> bool:
        start, end = self.route(depth)
        return not start < block <= end + 1

    def check(self, dims: Size, tokens: int, images: int) -> None:
        start, end = self.route(dims.depth)
        if end >= dims.depth:
            raise UserError(f"objective.end {end}: the model has blocks 0 to {dims.depth - 1}, counted from 0")
        if start > end:
            raise UserError(f"objective.start {start} is after objective.end {end}, so no block would be skipped; "
                            f"the default for {dims.depth} blocks, counted from 0, is {' to '.join(map(str, TreadConfig(name='tread').route(dims.depth)))}")
        check_can_mask(self.ratio, tokens, "ratio")

    def objective(self, config):
        from ditscale.objectives.tread.objective import Tread

        return Tread, {"options": self, "tokens": config.tokens}

    def model(self, dims: Size):
        from ditscale.models.tread import RoutedDiT

        start, end = self.route(dims.depth)
        return RoutedDiT, {"start": start, "end": end}

    def card(self, backbone: Backbone, kept: int | None = None) -> ComputeCard:
        """The plain DiT's, with fewer tokens in the skipped blocks of the training pass."""
        plain, (start, end) = plain_card(backbone), self.route(backbone.model.dims.depth)
        skipped = backbone.blocks(end + 1 - start)
        others = backbone.blocks(backbone.model.dims.depth - skipped.depth)
        trained = added(backbone.embed_macs(), others.macs(backbone.tokens), skipped.macs(kept_tokens(backbone.tokens, self.ratio)),
                        backbone.final_macs(backbone.width))
        return ComputeCard(plain.tokens, plain.parameters, plain.parameters, plain.macs_by_part, trained)


def _rounded(depth: int, parts: int) -> int:
    """``depth / parts`` to the nearest whole number, halves up."""
    return (2 * depth + parts) // (2 * parts)
