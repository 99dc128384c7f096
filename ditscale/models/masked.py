"""MaskDiT's asymmetric model (arXiv 2306.09305): the DiT encodes only the kept tokens, a small added decoder sees all positions."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ditscale.models import rope
from ditscale.models.dit import Condition, DiT, initialize_linears, join, part, run
from ditscale.models.layers import sincos_position_table
from ditscale.models.masking import gather, scatter


class MaskedDiT(DiT):
    """A DiT with its blocks as the encoder, followed by ``decoder_depth`` further blocks of the same design.

    The decoder has the encoder's condition. At masked positions it gets a mask token. Without ``kept`` (sampling) all
    tokens are encoded and the mask token is not used.

    Args:
        decoder_depth, decoder_width, decoder_heads: the added blocks; MaskDiT: 8, 512, 16.
        mask_token: whether it is learned (trained only if tokens are masked); otherwise it is the zero vector.
        options: of ``DiT``.
    """

    training_only: ClassVar[tuple[str, ...]] = ("mask_token",)
    decoder_pos_embed: Tensor                                                  # (1, T, W); not with rotary positions alone

    def __init__(self, *, decoder_depth: int, decoder_width: int, decoder_heads: int, mask_token: bool = True, **options):
        super().__init__(**options)
        self.decoder_embed = self.make_projection(self.hidden_size, decoder_width)
        self.switches.check_head(decoder_width, decoder_heads, "decoder_width")
        if self.switches.rotates:
            self.register_buffer("decoder_rope", rope.rotations(decoder_width // decoder_heads, self.grid))
        if self.switches.adds_table:
            self.register_buffer("decoder_pos_embed", sincos_position_table(decoder_width, self.grid))
        self.decoder_blocks = self.make_blocks(decoder_depth, decoder_width, decoder_heads)
        self.final_layer = self.make_projection(decoder_width, self.patch_size**2 * self.out_channels)
        for added in (self.decoder_embed, self.decoder_blocks, self.final_layer):
            initialize_linears(added)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, decoder_width)) if mask_token else None

    def forward(self, x: Tensor, t: Tensor, y: Tensor, kept: Tensor | None = None) -> Tensor:
        """As ``DiT``; ``kept`` (B, K) are the indices of the tokens that the encoder sees; None: all."""
        condition, tokens = self.condition(t, y), self.embed(x)
        encoded, extra = self.encode(tokens if kept is None else gather(tokens, kept), condition, kept)
        return self.decode(encoded, extra, condition, kept)

    def decode(self, encoded: Tensor, extra: Tensor | None, condition: Condition, kept: Tensor | None,
               elsewhere: Tensor | None = None) -> Tensor:
        """Encoded tokens (B, K, H) to an image.

        ``elsewhere`` (B, T, W) is the decoder's input at masked positions; None: the mask token.
        """
        encoded, extra = part(self.decoder_embed(join(encoded, extra), condition.c), encoded.shape[1])
        if kept is not None:
            if elsewhere is None:
                elsewhere = encoded.new_zeros(1, 1, encoded.shape[-1]) if self.mask_token is None else self.mask_token
            encoded = scatter(encoded, kept, elsewhere.expand(len(kept), self.grid**2, -1))
        placed = (encoded + self.decoder_pos_embed).to(encoded.dtype) if self.switches.adds_table else encoded
        tokens, _ = run(self.decoder_blocks, placed, extra, condition.c, self.where("decoder_rope", extra))
        return self.to_image(tokens, condition.c)
