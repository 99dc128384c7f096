"""The diffusion transformer backbone (arXiv 2212.09748): patches in, blocks under a condition, patches out."""

import torch
from torch import Tensor, nn

from ditscale.errors import UserError, did_you_mean
from ditscale.models.blocks import BLOCKS, NORM_EPS, modulate, modulation
from ditscale.models.layers import LabelEmbedder, Linear, PatchEmbed, TimestepEmbedder, sincos_position_table, unpatchify
from ditscale.models.sizes import MODULATED, parse_model_name, token_grid


class FinalLayer(nn.Module):
    """Layer norm, modulated in the adaLN designs, and the projection of each token to its patch, ``p * p * out_channels``.

    The designs without modulation end in a plain affine norm: only so do their parameters come out as the paper prints them
    (in-context 449M, cross-attention 598M; a modulated end would add 2.7M).
    """

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int, modulated: bool):
        super().__init__()
        self.linear = Linear(hidden_size, patch_size * patch_size * out_channels)
        if modulated:
            self.adaLN_modulation = modulation(hidden_size, 2)
        else:
            self.norm_final = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.modulated = modulated

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        if not self.modulated:
            return self.linear(self.norm_final(x))
        shift, scale = self.adaLN_modulation(c).float().chunk(2, dim=1)
        return self.linear(modulate(x, shift, scale))


class DiT(nn.Module):
    """A class-conditional diffusion transformer.

    Args (the released names):
        input_size: pixels (or latent cells) a side; patch_size must divide it.
        learn_sigma: the output carries a second set of channels for the variance.
        class_dropout_prob: above 0 the label table gets a null class, index ``num_classes``. The drop itself is the
            objective's: it is drawn per sample, so that it never depends on ranks.
        block: ``adaln_zero | adaln | cross_attention | in_context``, see ``blocks.py``.
        qk_norm: normalise queries and keys; off in the paper.

    Raises:
        UserError: the patch size does not divide the input, the heads do not divide the width, or there is no such block.
    """

    def __init__(self, *, input_size: int, patch_size: int, in_channels: int, hidden_size: int, depth: int, num_heads: int,
                 mlp_ratio: float = 4.0, class_dropout_prob: float = 0.1, num_classes: int = 1000, learn_sigma: bool = True,
                 block: str = "adaln_zero", qk_norm: bool = False):
        super().__init__()
        grid = token_grid(input_size, patch_size)
        if hidden_size % num_heads or hidden_size % 4:
            raise UserError(f"hidden_size {hidden_size} must be a multiple of num_heads {num_heads} and of 4")
        if block not in BLOCKS:
            raise UserError(f"no block design '{block}'{did_you_mean(block, BLOCKS)} Designs: {', '.join(BLOCKS)}")
        self.patch_size, self.num_classes, self.block = patch_size, num_classes, block
        self.out_channels = in_channels * (2 if learn_sigma else 1)
        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, class_dropout_prob)
        self.register_buffer("pos_embed", sincos_position_table(hidden_size, grid))
        self.blocks = nn.ModuleList(BLOCKS[block](hidden_size, num_heads, mlp_ratio, qk_norm) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size, self.out_channels, modulated=block in MODULATED)
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """Xavier for linear layers, N(0, 0.02) for embeddings, zero for every modulation and for the output (Sec. 3.2).

        A zero modulation makes adaLN-Zero blocks the identity and adaLN blocks plain pre-norm blocks.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(self.t_embedder.mlp[0].weight, std=0.02)
        nn.init.normal_(self.t_embedder.mlp[2].weight, std=0.02)
        modulations = [module.adaLN_modulation[1] for module in self.modules() if hasattr(module, "adaLN_modulation")]
        for layer in (*modulations, self.final_layer.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Shapes: x (B, C, S, S), t (B,) in 0..1000, labels y (B,) with ``num_classes`` for null; returns (B, C or 2C, S, S)."""
        dtype = self.x_embedder.proj.weight.dtype
        x = (self.x_embedder(x.to(dtype)) + self.pos_embed).to(dtype)          # (B, T, H); DeepSpeed leaves the table in fp32
        t, y = self.t_embedder(t), self.y_embedder(y)                          # (B, H) each
        tokens, c = x.shape[1], t + y
        if self.block == "cross_attention":
            c = torch.stack([t, y], dim=1)                                     # (B, 2, H)
        if self.block == "in_context":
            x = torch.cat([x, t[:, None], y[:, None]], dim=1)                  # (B, T + 2, H)
        for block in self.blocks:
            x = block(x, c)
        return unpatchify(self.final_layer(x[:, :tokens], c), self.patch_size, self.out_channels)


def create_model(name: str, *, seed: int | None = None, **options) -> DiT:
    """Build ``DiT-<size>/<patch>``, for example ``create_model("DiT-XL/2", input_size=32, in_channels=4)``.

    ``seed`` fixes the initial weights without touching torch's global generator.
    """
    parsed = parse_model_name(name)
    dims = parsed.dims
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return DiT(patch_size=parsed.patch_size, hidden_size=dims.hidden_size, depth=dims.depth, num_heads=dims.num_heads,
                   **options)
