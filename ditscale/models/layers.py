"""Building blocks around the transformer: attention, MLP, patches, position embedding, timestep and label embedders.

Key names in ``state_dict`` are those of the released DiT checkpoints. Shapes: B images, T tokens, H hidden size, C channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditscale.models import rope
from ditscale.models.linear import Linear
from ditscale.models.switches import STANDARD, Switches

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention over ``(B, T, H)``, through PyTorch's fused kernel.

    Args:
        switches: ``qk_norm`` is the usual remedy for bf16 runs that diverge late; ``positions`` and ``value_residual``, see ``mix_values``.
        relative_grid: adds a learned bias for each offset between two tokens of a square grid of that side.
    """

    gives_values = False                                                       # returns (result, values), for blocks that mix them in

    def __init__(self, hidden_size: int, num_heads: int, switches: Switches = STANDARD, relative_grid: int = 0):
        super().__init__()
        self.num_heads, self.rotates = num_heads, switches.rotates
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.proj = Linear(hidden_size, hidden_size)
        self.q_norm, self.k_norm = qk_norms(hidden_size // num_heads, switches.qk_norm)
        self.relative_bias = RelativePositionBias(relative_grid, num_heads) if relative_grid else None
        self.value_mix: nn.Parameter | None = None

    def mix_values(self, *, is_first: bool) -> None:
        """Value residual: the first attention of a stack hands out its values, a later one mixes them into its own."""
        self.gives_values = is_first
        self.value_mix = None if is_first else nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor, where: Tensor | None = None, first: Tensor | None = None):
        """The result (B, T, H); with ``gives_values`` also the values (B, heads, T, D).

        Args:
            where: with a ``relative_grid`` the offset between each two tokens, from ``relative_offsets``; with rotary positions
                the tokens' rotations, from ``rope.at``.
            first: the values of the stack's first block, for one that mixes them in.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rotates:
            q, k = rope.rotated(q, where), rope.rotated(k, where)
        if self.value_mix is not None:
            v = torch.lerp(v, first, self.value_mix)
        bias = None if self.relative_bias is None else self.relative_bias(where, x.shape[1])
        result = self.proj(attend(q, k, v, bias))
        return (result, v) if self.gives_values else result


class RelativePositionBias(nn.Module):
    """A number for each head and each offset between two tokens, added to the attention's logits (MDT; from BEiT)."""

    def __init__(self, grid: int, num_heads: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2, num_heads))

    def forward(self, offsets: Tensor, tokens: int) -> Tensor:
        """Offsets (T, T) or (B, T, T) to a bias (heads, N, N) or (B, heads, N, N) for N = ``tokens``.

        Tokens beyond T have no position (for example a condition) and get a bias of zero.
        """
        bias = F.embedding(offsets, self.table).movedim(-1, -3)
        beyond = tokens - bias.shape[-1]
        return F.pad(bias, (0, beyond, 0, beyond)) if beyond else bias


def relative_offsets(grid: int) -> Tensor:
    """(T, T) for a square grid of that side: the index, 0 to (2 grid - 1)^2 - 1, of the offset from each token to each other."""
    places = torch.arange(grid * grid)
    rows, columns = places // grid, places % grid
    return (rows[:, None] - rows + grid - 1) * (2 * grid - 1) + columns[:, None] - columns + grid - 1


class CrossAttention(nn.Module):
    """Multi-head attention from tokens ``(B, T, H)`` to a context ``(B, S, context_size)``."""

    def __init__(self, hidden_size: int, context_size: int, num_heads: int, qk_norm: bool = False):
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(hidden_size, hidden_size)
        self.kv = Linear(context_size, 2 * hidden_size)
        self.proj = Linear(hidden_size, hidden_size)
        self.q_norm, self.k_norm = qk_norms(hidden_size // num_heads, qk_norm)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attend(self.q_norm(q), self.k_norm(k), v))


def qk_norms(head_dim: int, enabled: bool) -> tuple[nn.Module, nn.Module]:
    """Norms of queries and keys, or two identities."""
    return (nn.RMSNorm(head_dim, eps=1e-6), nn.RMSNorm(head_dim, eps=1e-6)) if enabled else (nn.Identity(), nn.Identity())


def attends_in_fp32(x: Tensor) -> bool:
    """bf16 on a CPU, with bf16 units or without: the backward of torch's bf16 kernel is so slow that a step takes 1.6 times as long at 16 tokens."""
    return x.dtype is torch.bfloat16 and x.device.type == "cpu"


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of ``(B, heads, T, D)``, heads joined: ``(B, T, heads * D)``; ``bias`` is added to its logits."""
    dtype = v.dtype
    if attends_in_fp32(v):
        q, k, v, bias = q.float(), k.float(), v.float(), None if bias is None else bias.float()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2).to(dtype)


class Mlp(nn.Module):
    """Two linear layers with a tanh-GELU between them, or a SwiGLU: the first layer then makes a gate and what it multiplies."""

    def __init__(self, hidden_size: int, mlp_ratio: float, switches: Switches = STANDARD):
        super().__init__()
        hidden, self.is_gated = switches.hidden(hidden_size, mlp_ratio), switches.mlp == "swiglu"
        if self.is_gated:
            self.gate_up = Linear(hidden_size, 2 * hidden)
        else:
            self.fc1 = Linear(hidden_size, hidden)
        self.fc2 = Linear(hidden, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_gated:
            gate, up = self.gate_up(x).chunk(2, dim=-1)
            return self.fc2(F.silu(gate) * up)
        return self.fc2(self.fc1(x, gelu=True))


def affine_norm(width: int, switches: Switches) -> nn.Module:
    """A layer norm, or an RMSNorm, with learned gains."""
    return nn.LayerNorm(width, eps=NORM_EPS) if switches.norm == "layer" else nn.RMSNorm(width, eps=NORM_EPS)


class PatchEmbed(nn.Module):
    """Cut ``(B, C, S, S)`` into patches and project each to a token: ``(B, T, H)``.

    The weight has a convolution's shape, as in the released checkpoints; the product is a plain linear layer.
    """

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int, bias: bool = True):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size, bias=bias)

    @property
    def patches(self) -> nn.Conv2d:
        """The layer over the pixels of a patch."""
        return self.proj

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(patchify(x, self.patch_size), self.proj.weight.flatten(1), self.proj.bias)


class BottleneckPatchEmbed(nn.Module):
    """As ``PatchEmbed``, through ``bottleneck`` channels: ``(B, C, S, S)`` to ``(B, T, H)``."""

    def __init__(self, patch_size: int, in_channels: int, bottleneck: int, hidden_size: int):
        super().__init__()
        self.reduce = PatchEmbed(patch_size, in_channels, bottleneck, bias=False)
        self.expand = Linear(bottleneck, hidden_size)

    @property
    def patches(self) -> nn.Conv2d:
        return self.reduce.proj

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.reduce(x))


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """``(B, C, S, S)`` to ``(B, T, C * p * p)``: patches row by row, each with its channels outermost."""
    batch, channels, side, _ = x.shape
    grid, p = side // patch_size, patch_size
    return x.view(batch, channels, grid, p, grid, p).permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, channels * p * p)


def unpatchify(tokens: Tensor, patch_size: int, channels: int) -> Tensor:
    """``(B, T, p * p * C)`` with channels innermost, as the released final layer writes them, to ``(B, C, S, S)``."""
    batch, count, _ = tokens.shape
    grid, p = math.isqrt(count), patch_size
    x = tokens.view(batch, grid, grid, p, p, channels).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(batch, channels, grid * p, grid * p)


def sincos_position_table(hidden_size: int, grid: int) -> Tensor:
    """The fixed 2-D sin-cos table ``(1, T, H)``: first half of the channels for the column, second half for the row."""
    omega = 10000.0 ** (-torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size / 4))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    halves = []
    for axis in (columns, rows):
        angle = axis.reshape(-1, 1).double() * omega
        halves += [angle.sin(), angle.cos()]
    return torch.cat(halves, dim=1).float().unsqueeze(0)


def sinusoid_frequencies(count: int, device=None) -> Tensor:
    """The timestep embedder's frequencies: 10000^(-i / count) for i below ``count``, in fp32."""
    return torch.exp(-math.log(10000.0) / count * torch.arange(count, dtype=torch.float32, device=device))


class TimestepEmbedder(nn.Module):
    """A scalar time (in training steps, 0 to 1000) to ``(B, H)``: 256-d sinusoid in fp32, then a two-layer MLP."""

    frequencies = 256

    def __init__(self, hidden_size: int):
        super().__init__()
        self.mlp = nn.Sequential(Linear(self.frequencies, hidden_size), nn.SiLU(), Linear(hidden_size, hidden_size))

    def forward(self, t: Tensor) -> Tensor:
        angle = t.float()[:, None] * sinusoid_frequencies(self.frequencies // 2, t.device)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).to(next(self.mlp.parameters()).dtype))


class LabelEmbedder(nn.Module):
    """A class label to ``(B, H)``; the last row is the null class, present only if labels are dropped in training.

    With ``zero_null`` that row has no gradient and stays the zero vector set by ``DiT``, as in MaskDiT.
    """

    def __init__(self, num_classes: int, hidden_size: int, class_dropout_prob: float, zero_null: bool = False):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + (class_dropout_prob > 0), hidden_size,
                                            padding_idx=num_classes if zero_null else None)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)
