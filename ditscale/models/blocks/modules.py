"""The blocks of each design, in PyTorch.

Every block is called as ``block(x, c)`` with tokens x (B, T, H); as ``block(x, c, where)`` with a ``relative_grid`` or rotary positions; with
``value_residual``, the first of a stack returns (x, values), and the others are called as ``block(x, c, where, values)``: see
``layers.Attention``. What c is depends on the design, for a condition of width E (in the DiT itself, E = H):

=================  ==========================================  =====================
design             the condition                               c
=================  ==========================================  =====================
``in_context``     two more tokens, removed after the blocks   unused
``cross_attention``a sequence of length 2 to attend to         (B, 2, E)
``adaln``          shift and scale of the layer norms          (B, E), the sum of both
``adaln_zero``     the same, and a gate that starts at zero    (B, E), the sum of both
=================  ==========================================  =====================

The designs without modulation have affine layer norms, as a plain transformer does. ``switches.py`` has what all designs can replace.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditscale.models.layers import NORM_EPS, Attention, CrossAttention, Mlp, affine_norm
from ditscale.models.linear import Linear
from ditscale.models.switches import Switches


def modulate(x: Tensor, shift: Tensor, scale: Tensor, norm: str = "layer") -> Tensor:
    """LayerNorm, or RMSNorm, without affine, then ``x * (1 + scale) + shift``; the modulation is in fp32 for any dtype of x.

    Shapes: x (B, T, H), shift and scale (B, H) in fp32.
    """
    normed = (F.layer_norm if norm == "layer" else F.rms_norm)(x, x.shape[-1:], eps=NORM_EPS)
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

    def __init__(self, switches: Switches):
        super().__init__()
        self.norm = switches.norm

    def modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return modulate(x, shift, scale, self.norm)

    def attended(self, x: Tensor, where: Tensor | None, first: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Attention's output, and its values where it gives them."""
        return self.attn(x, where, first) if self.attn.gives_values else (self.attn(x, where, first), None)

    def scaled(self, branch: Tensor) -> Tensor:
        return branch if self.branch_scale == 1 else branch * self.branch_scale

    def branch_ends(self) -> list[Linear]:
        """The last layer of each branch."""
        return [self.attn.proj, self.mlp.fc2]


def given(x: Tensor, values: Tensor | None):
    """What a block returns: its tokens, and its values where it gives them."""
    return x if values is None else (x, values)


class InContextBlock(Block):
    """A plain pre-norm transformer block; the condition is among the tokens."""

    def __init__(self, hidden_size: int, condition_size: int, num_heads: int, mlp_ratio: float, switches: Switches, relative_grid: int):
        super().__init__(switches)
        self.norm1 = affine_norm(hidden_size, switches)
        self.attn = Attention(hidden_size, num_heads, switches, relative_grid)
        self.norm2 = affine_norm(hidden_size, switches)
        self.mlp = Mlp(hidden_size, mlp_ratio, switches)

    def forward(self, x: Tensor, c: Tensor, where: Tensor | None = None, first: Tensor | None = None):
        attended, values = self.attended(self.norm1(x), where, first)
        x = x + self.scaled(attended)
        return given(x + self.scaled(self.mlp(self.norm2(x))), values)


class CrossAttentionBlock(Block):
    """A plain block with a multi-head cross-attention to the condition after self-attention."""

    def __init__(self, hidden_size: int, condition_size: int, num_heads: int, mlp_ratio: float, switches: Switches, relative_grid: int):
        super().__init__(switches)
        self.norm1 = affine_norm(hidden_size, switches)
        self.attn = Attention(hidden_size, num_heads, switches, relative_grid)
        self.norm_cross = affine_norm(hidden_size, switches)
        self.cross_attn = CrossAttention(hidden_size, condition_size, num_heads, switches.qk_norm)
        self.norm2 = affine_norm(hidden_size, switches)
        self.mlp = Mlp(hidden_size, mlp_ratio, switches)

    def forward(self, x: Tensor, c: Tensor, where: Tensor | None = None, first: Tensor | None = None):
        attended, values = self.attended(self.norm1(x), where, first)
        x = x + self.scaled(attended)
        x = x + self.scaled(self.cross_attn(self.norm_cross(x), c))
        return given(x + self.scaled(self.mlp(self.norm2(x))), values)

    def branch_ends(self):
        return [*super().branch_ends(), self.cross_attn.proj]


class AdaLNBlock(Block):
    """Shift and scale of both layer norms come from the condition."""

    def __init__(self, hidden_size: int, condition_size: int, num_heads: int, mlp_ratio: float, switches: Switches, relative_grid: int):
        super().__init__(switches)
        self.attn = Attention(hidden_size, num_heads, switches, relative_grid)
        self.mlp = Mlp(hidden_size, mlp_ratio, switches)
        self.adaLN_modulation = Modulation(condition_size, hidden_size, 4)

    def forward(self, x: Tensor, c: Tensor, where: Tensor | None = None, first: Tensor | None = None):
        shift_a, scale_a, shift_m, scale_m = self.adaLN_modulation(c).float().chunk(4, dim=1)
        attended, values = self.attended(self.modulated(x, shift_a, scale_a), where, first)
        x = x + self.scaled(attended)
        return given(x + self.scaled(self.mlp(self.modulated(x, shift_m, scale_m))), values)


class AdaLNZeroBlock(Block):
    """Shift, scale and gate for attention and MLP come from the condition; zero gates make the block start as the identity."""

    def __init__(self, hidden_size: int, condition_size: int, num_heads: int, mlp_ratio: float, switches: Switches, relative_grid: int):
        super().__init__(switches)
        self.attn = Attention(hidden_size, num_heads, switches, relative_grid)
        self.mlp = Mlp(hidden_size, mlp_ratio, switches)
        self.adaLN_modulation = Modulation(condition_size, hidden_size, 6)

    def forward(self, x: Tensor, c: Tensor, where: Tensor | None = None, first: Tensor | None = None):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).float().chunk(6, dim=1)
        attended, values = self.attended(self.modulated(x, shift_a, scale_a), where, first)
        x = x + (self.scaled(gate_a)[:, None] * attended).to(x.dtype)
        return given(x + (self.scaled(gate_m)[:, None] * self.mlp(self.modulated(x, shift_m, scale_m))).to(x.dtype), values)
