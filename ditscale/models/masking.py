"""Selects kept tokens, and removes and restores masked ones. Pure functions.

Shapes: B images, T tokens, K kept ones, H width. Indices (B, K) ascend, so kept tokens stay in reading order.
"""

import torch
from torch import Tensor


def keep_lowest(scores: Tensor, keep: int) -> Tensor:
    """Indices (B, K) of the ``keep`` lowest scores (B, T) of each image. With uniform scores every choice is equally likely."""
    return scores.argsort(dim=1, stable=True)[:, :keep].sort(dim=1).values


def is_kept(kept: Tensor, tokens: int) -> Tensor:
    """True at the kept positions, (B, T)."""
    return torch.zeros(len(kept), tokens, dtype=torch.bool, device=kept.device).scatter_(1, kept, True)


def masked_indices(kept: Tensor, tokens: int) -> Tensor:
    """The other positions (B, T - K), ascending."""
    return is_kept(kept, tokens).int().argsort(dim=1, stable=True)[:, :tokens - kept.shape[1]]


def gather(x: Tensor, indices: Tensor) -> Tensor:
    """The tokens of x (B, T, H) at these positions: (B, K, H)."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))


def scatter(values: Tensor, indices: Tensor, onto: Tensor) -> Tensor:
    """A copy of ``onto`` (B, T, H) with ``values`` (B, K, H) at these positions; the inverse of ``gather``."""
    return onto.scatter(1, indices[..., None].expand(-1, -1, values.shape[-1]), values)
