"""MDT (arXiv 2303.14389) and MDTv2: the DiT's last blocks decode, and a side-interpolater fills in masked positions in training."""

import torch
from torch import Tensor, nn

from ditscale.errors import UserError
from ditscale.models.dit import Condition, DiT, initialize_linears, join, part, run
from ditscale.models.layers import RelativePositionBias, relative_offsets
from ditscale.models.linear import Linear
from ditscale.models.masking import gather, is_kept, scatter


class Mdt(DiT):
    """A DiT with relative position bias in every attention and learned position embeddings before encoder and decoder.

    Args:
        decoder_depth: how many of the model's last blocks are the decoder; MDT: 2.
        long_skips: MDTv2: the second half of the encoder takes the first half's outputs, and each decoder block the input tokens,
            joined by a linear layer. The input tokens include the masked ones, as in the released code.
        options: of ``DiT``.
    """

    training_only = ("mask_token", "side_block")
    offsets: Tensor                                                            # (T, T), between all tokens

    def __init__(self, *, decoder_depth: int, long_skips: bool = False, **options):
        super().__init__(relative_bias=True, **options)
        for name in {"positions", "value_residual"} & set(self.switches.given):
            raise UserError(f"an MDT model has no {name} {getattr(self.switches, name)}")
        width = self.hidden_size
        self.encoder_depth = len(self.blocks) - decoder_depth
        table = self.pos_embed
        del self.pos_embed
        self.pos_embed, self.decoder_pos_embed = nn.Parameter(table.clone()), nn.Parameter(table.clone())
        self.register_buffer("offsets", relative_offsets(self.grid), persistent=False)
        self.side_block = self.make_blocks(1, width, self.num_heads)
        self.long_skips = self.encoder_depth // 2 if long_skips else 0         # skips inside the encoder
        self.skips = nn.ModuleList(Linear(2 * width, width) for _ in range(self.long_skips + decoder_depth if long_skips else 0))
        for added in (self.side_block, self.skips):
            initialize_linears(added)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        for module in self.modules():
            if isinstance(module, RelativePositionBias):
                nn.init.trunc_normal_(module.table, std=0.02)

    def encode(self, tokens: Tensor, condition: Condition, kept: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens through the encoder's blocks; ``kept`` (B, K) are their indices, if they are not all tokens."""
        offsets = self.offsets if kept is None else self.offsets[kept[:, :, None], kept[:, None, :]]  # (B, K, K)
        blocks = self.blocks[:self.encoder_depth]
        if not self.long_skips:
            return run(blocks, tokens, condition.tokens, condition.c, offsets)
        outputs: list[Tensor] = []
        x = join(tokens, condition.tokens)
        for depth, block in enumerate(blocks):
            if depth >= len(blocks) - self.long_skips:
                x = self.skips[depth - len(blocks) + self.long_skips](torch.cat([x, outputs.pop()], dim=-1))
            x = block(x, condition.c, offsets)
            if depth < self.long_skips:
                outputs.append(x)
        return part(x, tokens.shape[1])

    def interpolate(self, encoded: Tensor, extra: Tensor | None, condition: Condition, kept: Tensor) -> Tensor:
        """The side-interpolater: encoded tokens and mask tokens, at their positions, through one block; its output is used only at
        masked positions."""
        before = self.placed(scatter(encoded, kept, self.mask_token.expand(len(kept), self.grid**2, -1)))
        after, _ = run(self.side_block, before, extra, condition.c, self.offsets)
        return torch.where(is_kept(kept, self.grid**2)[..., None], before, after)

    def placed(self, tokens: Tensor) -> Tensor:
        return tokens + self.decoder_pos_embed

    def decode(self, tokens: Tensor, extra: Tensor | None, condition: Condition, inputs: Tensor) -> Tensor:
        """All tokens (B, T, H) through the model's last blocks to an image; ``inputs`` are the embedded ones, for MDTv2's skips."""
        blocks = self.blocks[self.encoder_depth:]
        if not self.skips:
            tokens, _ = run(blocks, tokens, extra, condition.c, self.offsets)
            return self.to_image(tokens, condition.c)
        x, inputs = join(tokens, extra), join(inputs, condition.tokens)
        for block, skip in zip(blocks, self.skips[self.long_skips:], strict=True):
            x = block(skip(torch.cat([x, inputs], dim=-1)), condition.c, self.offsets)
        return self.to_image(part(x, tokens.shape[1])[0], condition.c)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, kept: Tensor | None = None) -> Tensor:
        """As ``DiT``; with ``kept`` (B, K) the masked pass: the encoder sees only these tokens."""
        condition, inputs = self.condition(t, y), self.embed(x)
        if kept is None:
            encoded, extra = self.encode(inputs, condition)
            return self.decode(self.placed(encoded), extra, condition, inputs)
        encoded, extra = self.encode(gather(inputs, kept), condition, kept)
        return self.decode(self.interpolate(encoded, extra, condition, kept), extra, condition, inputs)
