"""The blocks of each design, in PyTorch.

Every block is called as ``block(x, c)`` with tokens x (B, T, H); with a ``relative_grid``, as ``block(x, c, offsets)``, see
``layers.Attention``. What c is depends on the design, for a condition of width E (in the DiT itself, E = H):

=================  ==========================================  =====================
design             the condition                               c
=================  ==========================================  =====================
``in_context``     two more tokens, removed after the blocks   unused
``cross_attention``a sequence of length 2 to attend to         (B, 2, E)
``adaln``          shift and scale of the layer norms          (B, E), the sum of both
``adaln_zero``     the same, and a gate that starts at zero    (B, E), the sum of both
=================  ==========================================  =====================

The designs without modulation have affine layer norms, as a plain transformer does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditscale.models.layers import Attention, CrossAttention, Linear, Mlp

NORM_EPS = 1e-6


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without affine, then ``x * (1 + scale) + shift``; the modulation is in fp32 for any dtype of x.

    Shapes: x (B, T, H), shift and scale (B, H) in fp32.
    """
    normed = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
    return torch.addcmul(shift[:, None], normed.float(), 1 + scale[:, None]).to(x.dtype)


class Modulation(nn.Sequential):
    """A condition (B, E) to ``vectors`` modulation vectors (B, vectors * H)."""

    def __init__(self, condition_size: int, hidden_size: int, vectors: int):
        super().__init__(nn.SiLU(), Linear(condition_size, vectors * hidden_size))


class Block(nn.Module):
    """What all designs share.

    Attributes:
        branch_scale: a factor of attention's and MLP's outputs: CompleteP's, see ``parametrization.py``.
        tapped: takes the block's tokens, see ``taps.py``.
    """

    branch_scale: float = 1.0
    tapped: list[Tensor] | None = None
    attn: Attention
    mlp: Mlp

    def scaled(self, branch: Tensor) -> Tensor:
        return branch if self.branch_scale == 1 else branch * self.branch_scale

    def branch_ends(self) -> list[Linear]:
        """The last layer of each branch."""
        return [self.attn.proj, self.mlp.fc2]


class InContextBlock(Block):
    """A plain pre-norm transformer block; the condition is among the tokens."""

    def __init__(self, hidden_size: int, condition_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool, relative_grid: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.attn = Attention(hidden_size, num_heads, qk_norm, relative_grid)
        self.norm2 = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.mlp = Mlp(hidden_size, mlp_ratio)

    def forward(self, x: Tensor, c: Tensor, relative: Tensor | None = None) -> Tensor:
        x = x + self.scaled(self.attn(self.norm1(x), relative))
        return x + self.scaled(self.mlp(self.norm2(x)))


class CrossAttentionBlock(Block):
    """A plain block with a multi-head cross-attention to the condition after self-attention."""

    def __init__(self, hidden_size: int, condition_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool, relative_grid: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.attn = Attention(hidden_size, num_heads, qk_norm, relative_grid)
        self.norm_cross = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.cross_attn = CrossAttention(hidden_size, condition_size, num_heads, qk_norm)
        self.norm2 = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.mlp = Mlp(hidden_size, mlp_ratio)

    def forward(self, x: Tensor, c: Tensor, relative: Tensor | None = None) -> Tensor:
        x = x + self.scaled(self.attn(self.norm1(x), relative))
        x = x + self.scaled(self.cross_attn(self.norm_cross(x), c))
        return x + self.scaled(self.mlp(self.norm2(x)))

    def branch_ends(self):
        return [*super().branch_ends(), self.cross_attn.proj]


class AdaLNBlock(Block):
    """Shift and scale of both layer norms come from the condition."""

    def __init__(self, hidden_size: int, condition_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool, relative_grid: int):
        super().__init__()
        self.attn = Attention(hidden_size, num_heads, qk_norm, relative_grid)
        self.mlp = Mlp(hidden_size, mlp_ratio)
        self.adaLN_modulation = Modulation(condition_size, hidden_size, 4)

    def forward(self, x: Tensor, c: Tensor, relative: Tensor | None = None) -> Tensor:
        shift_a, scale_a, shift_m, scale_m = self.adaLN_modulation(c).float().chunk(4, dim=1)
        x = x + self.scaled(self.attn(modulate(x, shift_a, scale_a), relative))
        return x + self.scaled(self.mlp(modulate(x, shift_m, scale_m)))


class AdaLNZeroBlock(Block):
    """Shift, scale and gate for attention and MLP come from the condition; zero gates make the block start as the identity."""

    def __init__(self, hidden_size: int, condition_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool, relative_grid: int):
        super().__init__()
        self.attn = Attention(hidden_size, num_heads, qk_norm, relative_grid)
        self.mlp = Mlp(hidden_size, mlp_ratio)
        self.adaLN_modulation = Modulation(condition_size, hidden_size, 6)

    def forward(self, x: Tensor, c: Tensor, relative: Tensor | None = None) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).float().chunk(6, dim=1)
        x = x + (self.scaled(gate_a)[:, None] * self.attn(modulate(x, shift_a, scale_a), relative)).to(x.dtype)
        return x + (self.scaled(gate_m)[:, None] * self.mlp(modulate(x, shift_m, scale_m))).to(x.dtype)
