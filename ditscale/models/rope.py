"""Rotary positions (arXiv 2104.09864) in two dimensions: a query's product with a key depends on the offset between their tokens.

A head's D channels are D / 2 pairs (j, j + D / 2). The first half of the pairs turns by the token's column, the other by its row, with
D / 4 frequencies ``10000^(-i / (D / 4))`` each: the axial form and the base of EVA-02 (arXiv 2303.11331), which JiT and LightningDiT use. Those
also add the sin-cos table to the tokens: ``positions: sincos_rope``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BASE = 10000.0


def rotations(head_width: int, grid: int) -> Tensor:
    """Cosines and sines for a square grid of that side: (2, T, D / 2), in fp32."""
    frequencies = BASE ** (-torch.arange(head_width // 4, dtype=torch.float64) / (head_width // 4))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1).double() * frequencies for axis in (columns, rows)], dim=1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def at(table: Tensor, kept: Tensor | None, beyond: int) -> Tensor:
    """The rotations of all tokens, or those of each image at ``kept`` (B, K), followed by none for ``beyond`` tokens without a place.

    Returns (2, N, D / 2), or (2, B, N, D / 2), for N tokens.
    """
    chosen = table if kept is None else table[:, kept]
    if not beyond:
        return chosen
    cosines, sines = chosen
    return torch.stack([F.pad(cosines, (0, 0, 0, beyond), value=1.0), F.pad(sines, (0, 0, 0, beyond))])


def rotated(x: Tensor, where: Tensor) -> Tensor:
    """Queries or keys (B, heads, N, D) turned by ``where``; computed in fp32 at least.

    In memory a token's heads stay together, as attention's result follows the queries' layout and would else be copied.
    """
    cosine, sine = where.unsqueeze(-2)
    one, other = x.transpose(1, 2).chunk(2, dim=-1)
    return torch.cat([one * cosine - other * sine, other * cosine + one * sine], dim=-1).to(x.dtype).transpose(1, 2)
