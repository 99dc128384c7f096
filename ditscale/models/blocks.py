"""Transformer blocks of the DiT paper (Sec. 3.2, Fig. 3). Today: adaLN-Zero, the design behind every published FID."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditscale.models.layers import Attention, Linear, Mlp


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without affine, then ``x * (1 + scale) + shift``; the modulation is done in fp32 whatever x is in.

    Shapes: x (B, T, H), shift and scale (B, H) in fp32.
    """
    normed = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift[:, None], normed.float(), 1 + scale[:, None]).to(x.dtype)


class AdaLNZeroBlock(nn.Module):
    """adaLN-Zero: shift, scale and gate for attention and MLP come from the condition; zero gates make it start as identity."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.attn = Attention(hidden_size, num_heads)
        self.mlp = Mlp(hidden_size, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Shapes: x (B, T, H), condition c (B, H)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).float().chunk(6, dim=1)
        x = x + (gate_a[:, None] * self.attn(modulate(x, shift_a, scale_a))).to(x.dtype)
        return x + (gate_m[:, None] * self.mlp(modulate(x, shift_m, scale_m))).to(x.dtype)
