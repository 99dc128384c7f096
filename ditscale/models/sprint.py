"""SPRINT's model (arXiv 2510.21986): first and last blocks on all tokens, the blocks between on a few, and a layer that fuses both paths."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ditscale.models.dit import DiT, initialize_linears, join, part, run
from ditscale.models.linear import Linear
from ditscale.models.masking import gather, scatter


class SprintDiT(DiT):
    """A DiT whose last ``decoder_depth`` blocks see W [f; g]: f from the first ``encoder_depth`` blocks over all tokens, g from the blocks
    between, which in training see only the kept tokens. Elsewhere g is a learned mask token, and for some images everywhere.

    The extra tokens of the in-context design always stay, and are fused like the others.

    Args:
        mask_token: whether there is one, which there must be to leave tokens or the path out.
        options: of ``DiT``.
    """

    training_only: ClassVar[tuple[str, ...]] = ("mask_token",)

    def __init__(self, *, encoder_depth: int, decoder_depth: int, mask_token: bool = True, **options):
        super().__init__(**options)
        self.encoder_depth, self.decoder_depth = encoder_depth, decoder_depth
        self.fuse = Linear(2 * self.hidden_size, self.hidden_size)
        initialize_linears(self.fuse)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, self.hidden_size)) if mask_token else None

    def forward(self, x: Tensor, t: Tensor, y: Tensor, kept: Tensor | None = None, dropped: Tensor | None = None) -> Tensor:
        """As ``DiT``; ``kept`` (B, K) are the indices of the tokens that the middle blocks see, ``dropped`` (B,) is true for images whose g
        is the mask token everywhere. None, as in sampling: all tokens, no image."""
        condition, count, end = self.condition(t, y), self.grid**2, len(self.blocks) - self.decoder_depth
        everywhere, in_the_middle = (self.where("rope", condition.tokens, some) for some in (None, kept))
        shallow, extra = run(self.blocks[:self.encoder_depth], self.embed(x), condition.tokens, condition.c, everywhere)
        deep, deep_extra = run(self.blocks[self.encoder_depth:end], shallow if kept is None else gather(shallow, kept), extra, condition.c, in_the_middle)
        if kept is not None:
            deep = scatter(deep, kept, onto=self.mask_token.expand(len(kept), count, -1))
        shallow, deep = join(shallow, extra), join(deep, deep_extra)
        if dropped is not None:
            deep = torch.where(dropped[:, None, None], self.mask_token, deep)
        fused, extra = part(self.fuse(torch.cat([shallow, deep], dim=-1)), count)
        tokens, _ = run(self.blocks[end:], fused, extra, condition.c, everywhere)
        return self.to_image(tokens, condition.c)
