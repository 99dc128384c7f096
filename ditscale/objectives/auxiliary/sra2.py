"""SRA 2 (arXiv 2601.17830): an early block's tokens are mapped to the clean latent itself. No teacher, no encoder."""

import math
from typing import Literal

from pydantic import Field

from ditscale.models.macs import Backbone
from ditscale.models.sizes import Size
from ditscale.objectives.auxiliary.kind import Auxiliary, early_block
from ditscale.objectives.variant import PAPER_WIDTH
from ditscale.section import Count, Width


class Sra2(Auxiliary):
    """Smooth L1 between an MLP of each token and the clean patch at its place, as the model sees it: normalized latents, or pixels."""

    name: Literal["sra2"]
    weight: float = Field(1.0, gt=0)                                           # [2]
    block: Count | None = Field(None, gt=0)                                    # default: 2 of B's 12, 8 of L's and XL's [2]; below 12 blocks a sixth [choice]
    beta: float = Field(0.05, gt=0)                                            # of smooth L1 [2]
    layers: Count = Field(5, ge=1, le=32)                                      # of the MLP [2]
    hidden: Width | None = None                                                # default 1536: 8.3 M parameters at B, as the source says 8 M [choice];
                                                                               # below S: twice the width [choice]
    color = "#6d4fb3"
    dark_color = "#a68ae6"
    row = {"method": "sra2", "added to the loss": "smooth L1 of an MLP of the tokens to the clean patches",
           "read from": "block 2 of B, 8 of L and XL",
           "published": "SiT-B/2, 400K steps, no guidance: FID 33.02 to 28.89; at block 8 of B 36.2, with a 2-layer MLP 31.32 [2]",
           "caveat": "the MLP's width is ours; on pixels the target is the pixels"}

    def tap(self, dims: Size) -> int:
        return self.block or (early_block(dims.depth, 3) if dims.depth > 12 else early_block(dims.depth, 6))

    def head(self, backbone: Backbone) -> tuple[int, ...]:
        hidden = self.hidden or (1536 if backbone.width >= PAPER_WIDTH else 2 * backbone.width)
        return (backbone.width, *[hidden] * (self.layers - 1), backbone.patch_values)

    def loss(self, seen):
        import torch.nn.functional as F

        from ditscale.models.layers import patchify

        patch_size = seen.clean.shape[-1] // math.isqrt(seen.tokens.shape[1])
        return F.smooth_l1_loss(seen.tokens, patchify(seen.clean, patch_size), beta=self.beta)
