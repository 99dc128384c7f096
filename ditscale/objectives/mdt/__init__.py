"""MDT (arXiv 2303.14389): options and compute."""

from typing import Literal

from pydantic import Field

from ditscale.errors import UserError
from ditscale.models.macs import Backbone, ComputeCard, Parts, added, plain_card
from ditscale.models.matrices import BLOCK, WeightMatrix
from ditscale.models.sizes import Size
from ditscale.objectives.variant import Variant, check_can_mask, kept_tokens
from ditscale.section import Count

FORWARDS = 2                                                                   # per step: one over all tokens, one masked


class MdtConfig(Variant):
    """MDT (arXiv 2303.14389): a full and a masked pass, with the model's last blocks as decoder."""

    name: Literal["mdt"]
    mask_ratio: float = Field(0.3, gt=0, lt=1)                                 # [V]
    mask_ratio_max: float | None = Field(None, gt=0, lt=1)                     # drawn per step from mask_ratio to this; MDTv2: 0.5 [V]
    decoder_depth: Count = Field(2, gt=0)                                      # [V]; MDTv2: 6 at S/2, 4 at XL/2 [V]
    long_skips: bool = False                                                   # MDTv2 [V]
    shared_draws: bool = False                                                 # same noise and label drop for both passes; MDT draws two [V]

    color = "#dd9b22"
    dark_color = "#f0bd55"
    least_tokens = 2
    decoder_parts = ("side_block",)
    no_auxiliary = "its second pass sees only the kept tokens"
    refused_switches = {"positions": "MDT's attention has positions of its own, a learned bias per offset between two tokens",
                        "value_residual": "its last blocks decode tokens that its first block does not see in the masked pass"}
    column = {"": "mdt (MDT)", "encoder sees": "all, and in a second pass 70 %", "decoder": "the model's own last 2 blocks",
              "at masked places": "side-interpolater block", "loss terms": "`generative_full`, `generative_masked`",
              "training only": "mask token, side block", "sampling": "DiT with relative position bias"}

    @property
    def left_out(self) -> float:
        return self.mask_ratio

    def check(self, dims: Size, tokens: int, images: int) -> None:
        if self.decoder_depth >= dims.depth:
            raise UserError(f"objective.decoder_depth {self.decoder_depth} leaves no encoder: the model has {dims.depth} blocks, "
                            f"of which the last decoder_depth are the decoder; at most {dims.depth - 1}")
        if self.mask_ratio_max is not None and self.mask_ratio_max <= self.mask_ratio:
            raise UserError(f"objective.mask_ratio_max {self.mask_ratio_max} is not above mask_ratio {self.mask_ratio}")
        check_can_mask(self.mask_ratio, tokens)

    def objective(self, config):
        from ditscale.objectives.mdt.objective import MaskedDiffusion

        return MaskedDiffusion, {"options": self, "tokens": config.tokens, "seed": config.seed}

    def model(self, dims: Size):
        from ditscale.models.mdt import Mdt

        return Mdt, {"decoder_depth": self.decoder_depth, "long_skips": self.long_skips}

    def card(self, backbone: Backbone, kept: int | None = None) -> ComputeCard:
        """A pass over all tokens and a masked pass through the side block, each with its own embedding and final layer."""
        width, tokens, depth = backbone.width, backbone.tokens, self.decoder_depth
        encoder, decoder, side = backbone.blocks(backbone.model.dims.depth - depth), backbone.blocks(depth), backbone.blocks(1)
        side_block = {"side_block": sum(side.macs(tokens).values())}

        def forward(kept: int) -> Parts:
            macs = added(backbone.embed_macs(), encoder.macs(kept), decoder.macs(tokens), backbone.final_macs(width))
            if self.long_skips:
                macs["long_skips"] = _skip_macs(backbone, encoder.depth // 2, kept) + _skip_macs(backbone, depth, tokens)
            return macs

        masked = _mean([(share, forward(kept)) for kept, share in self.kept_shares(tokens).items()])
        table = (2 * backbone.grid - 1)**2 * backbone.model.dims.num_heads     # relative positions of a block
        skips = self._skips(backbone) * (2 * width + 1) * width
        used = (plain_card(backbone).parameters + 2 * tokens * width           # positions before encoder and decoder
                + backbone.model.dims.depth * table + skips)
        parameters = used + side.parameters + table + width                    # side block and mask token
        return ComputeCard(tokens, parameters, used, forward(tokens), added(forward(tokens), masked, side_block))

    def matrices(self, backbone: Backbone) -> list[WeightMatrix]:
        width, skips = backbone.width, self._skips(backbone)
        return [*super().matrices(backbone), *backbone.blocks(1).matrices, *([WeightMatrix(BLOCK, width, 2 * width, skips)] if skips else [])]

    def _skips(self, backbone: Backbone) -> int:
        return (backbone.model.dims.depth - self.decoder_depth) // 2 + self.decoder_depth if self.long_skips else 0

    def own_decoder_macs(self, backbone: Backbone) -> int:
        """The model's last blocks over all tokens, with their long skips, in both passes."""
        macs = sum(backbone.blocks(self.decoder_depth).macs(backbone.tokens).values())
        return FORWARDS * (macs + (_skip_macs(backbone, self.decoder_depth, backbone.tokens) if self.long_skips else 0))

    def kept_shares(self, tokens: int) -> dict[int, float]:
        """The distribution of the number of kept tokens: a single number for a fixed ratio, several for a ratio drawn uniformly."""
        low, high = self.mask_ratio, self.mask_ratio_max
        most = kept_tokens(tokens, low)
        if high is None:
            return {most: 1.0}
        shares = {}
        for kept in range(kept_tokens(tokens, high), most + 1):                # kept for ratios from ``first`` to ``last``
            first, last = 1 - (kept + 1) / tokens, 1 - kept / tokens if kept > 1 else 1.0
            shares[kept] = max(0.0, min(last, high) - max(first, low)) / (high - low)
        return shares


def _skip_macs(backbone: Backbone, skips: int, tokens: int) -> int:
    """Long skips: each is a linear layer from twice the width, over the tokens including those added by the block design."""
    return 2 * backbone.width**2 * skips * (tokens + backbone.added_tokens)


def _mean(weighted: list[tuple[float, Parts]]) -> Parts:
    """The weighted mean per part, in whole MACs."""
    return {name: round(sum(share * parts[name] for share, parts in weighted)) for name in weighted[0][1]}
