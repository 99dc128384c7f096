"""Dispersive loss (arXiv 2506.09027): the tokens of different images are pushed apart. No head, no second view, no positive pairs."""

import math
from typing import Annotated, Literal

from pydantic import Field

from ditscale.models.macs import Backbone
from ditscale.models.sizes import Size
from ditscale.objectives.auxiliary.kind import Grouped, early_block
from ditscale.section import Count


class Dispersive(Grouped):
    """``log mean_ij exp(-||z_i - z_j||^2 / (d tau))`` over a group of images, z an image's tokens as one vector of d numbers; the mean over groups.

    The pairs of an image with itself count, as in the released code. That code takes the local batch as the group.
    """

    name: Literal["dispersive"]
    weight: float = Field(0.5, gt=0)                                           # [R]
    block: Annotated[Count, Field(gt=0)] | Literal["last"] | None = None       # default: a quarter of the depth [R: JAX]; last [R: PyTorch]
    tau: float = Field(0.5, gt=0)                                              # [R]

    color = "#b0653a"
    dark_color = "#dc9468"
    row = {"method": "dispersive", "added to the loss": "log mean of exp(-distance) between the images of a group",
           "read from": "block n/4 (or the last)",
           "published": "SiT-B/2, 80 epochs, no guidance: FID 36.49 to 32.35 [R, README of the PyTorch code]",
           "caveat": "its effect depends on `group`; the published runs had 16 or 32 images per device"}

    def tap(self, dims: Size) -> int:
        return dims.depth if self.block == "last" else self.block or early_block(dims.depth, 4, most=dims.depth)

    def macs(self, backbone: Backbone) -> int:
        """The products of an image's tokens with those of its group."""
        return self.group * backbone.tokens * backbone.width

    def loss(self, seen):
        z = seen.tokens.flatten(1).unflatten(0, (-1, self.group))      # (groups, n, d)
        z = z - z.mean(1, keepdim=True)                                        # the same distances, with less cancellation
        products = z @ z.mT
        squares = products.diagonal(dim1=1, dim2=2)
        distances = squares[:, :, None] + squares[:, None] - 2 * products
        return (-distances / (z.shape[-1] * self.tau)).flatten(1).logsumexp(1).sub(2 * math.log(self.group)).mean()
