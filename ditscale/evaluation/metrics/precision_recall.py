"""Improved precision and recall (Kynkaanniemi et al. 2019): the share of one set that lies on the other's manifold.

A set's manifold is the union of balls around its rows; a ball reaches to the k-th nearest other row.
"""

import numpy as np
import torch
from torch import Tensor

from ditscale.errors import UserError

BLOCK = 2048                                                                   # rows on each side of a tile of distances
ROUNDING = 1e-12                                                               # of squared norms: distances of equal rows are below this


def precision_recall(samples: np.ndarray, reference: np.ndarray, *, k: int = 3, half: bool = False,
                     device="cpu") -> tuple[float, float]:
    """Precision, the share of samples on the reference's manifold, and recall, the reverse. Features (N, D) and (M, D).

    Distances are exact, in float64, and computed in tiles, so memory does not grow with the sets. With ``half`` they are rounded as
    in ADM's evaluator, which uses fp16 for its published values; that changes both by up to 0.0025.

    Raises:
        UserError: a set has at most k rows.
    """
    if min(len(samples), len(reference)) <= k:
        raise UserError(f"precision and recall with k = {k} need more than {k} images of each kind; there are {len(samples)} and "
                        f"{len(reference)}")
    distances = _half_distances if half else _distances
    sample_radii, reference_radii = (_radii(features, k, distances, device) for features in (samples, reference))
    covered, reached = np.zeros(len(samples), bool), np.zeros(len(reference), bool)
    for rows, row_part in _parts(samples, device):
        for columns, column_part in _parts(reference, device):
            tile = distances(row_part, column_part)
            covered[rows] |= (tile <= reference_radii[columns]).any(1).cpu().numpy()
            reached[columns] |= (tile <= sample_radii[rows, None]).any(0).cpu().numpy()
    return float(covered.mean()), float(reached.mean())


def _radii(features: np.ndarray, k: int, distances, device) -> Tensor:
    """(N,): the squared distance of each row to its k-th nearest other row."""
    radii = []
    for rows, row_part in _parts(features, device):
        nearest = torch.empty(len(row_part), 0, device=device)
        for columns, column_part in _parts(features, device):
            tile = distances(row_part, column_part)
            if rows == columns:
                tile.fill_diagonal_(float("inf"))
            nearest = torch.cat([nearest.to(tile.dtype), tile], 1)
            nearest = nearest.topk(min(k, nearest.shape[1]), largest=False).values
        radii.append(nearest[:, -1])
    return torch.cat(radii)


def _parts(features: np.ndarray, device):
    """Yields (slice of rows, those rows on the device)."""
    for first in range(0, len(features), BLOCK):
        rows = slice(first, min(first + BLOCK, len(features)))
        yield rows, torch.from_numpy(np.array(features[rows])).to(device)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(B, C): squared distances in float64; rows that differ only by rounding have 0."""
    a, b = a.double(), b.double()
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = norms - 2 * a @ b.T
    return squared.masked_fill_(squared <= ROUNDING * norms, 0)


def _half_distances(a: Tensor, b: Tensor) -> Tensor:
    """(B, C): each term of ``|a|^2 - 2 a.b + |b|^2`` rounded to fp16, as in ADM's graph; fp32 if fp16 overflows."""
    def squared(a: Tensor, b: Tensor, rounded) -> Tensor:
        norm_a, norm_b, product = a.square().sum(1), b.square().sum(1), a @ b.T
        return (rounded(norm_a)[:, None] - 2 * rounded(product) + rounded(norm_b)).clamp(min=0)

    a, b = a.float(), b.float()
    tile = squared(a.half().float(), b.half().float(), Tensor.half).float()
    return tile if tile.isfinite().all() else squared(a, b, Tensor.float)
