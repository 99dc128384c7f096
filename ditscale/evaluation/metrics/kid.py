"""The Kernel Inception Distance (Binkowski et al. 2018): the unbiased squared MMD with the kernel ``(x.y / D + 1)^3``.

Unbiased for any number of images, unlike the Frechet distance; it can be slightly below zero if both sets are similar.
"""

import numpy as np

from ditscale.errors import UserError
from ditscale.evaluation.metrics.moments import BLOCK


def kid(samples: np.ndarray, reference: np.ndarray, *, subsets: int = 100, subset: int = 1000,
        seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the MMD over random subsets of features (N, D) and (M, D), which may be memory maps.

    If a set has at most ``subset`` rows, all rows of both are used once; the deviation is then NaN (unknown).

    Raises:
        UserError: a set has fewer than two rows.
    """
    if min(len(samples), len(reference)) < 2:
        raise UserError(f"KID needs at least 2 images of each kind; there are {len(samples)} and {len(reference)}")
    if min(len(samples), len(reference)) <= subset:
        return squared_mmd(samples, reference), float("nan")
    rng = np.random.default_rng(seed)
    draw = lambda features: features[np.sort(rng.choice(len(features), subset, replace=False))]
    values = [squared_mmd(draw(samples), draw(reference)) for _ in range(subsets)]
    return float(np.mean(values)), float(np.std(values))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The U-statistic, equation 4 of the paper, with all cross pairs: x (N, D), y (M, D)."""
    within = sum((_kernel_sum(f, f) - _diagonal_sum(f)) / (len(f) * (len(f) - 1)) for f in (x, y))
    return float(within - 2 * _kernel_sum(x, y) / (len(x) * len(y)))


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """The kernel summed over all pairs, in blocks."""
    total = 0.0
    for row in range(0, len(x), BLOCK):
        left = x[row:row + BLOCK].astype(np.float64)
        for column in range(0, len(y), BLOCK):
            base = left @ y[column:column + BLOCK].astype(np.float64).T / x.shape[1] + 1
            total += (base * base * base).sum()                                # numpy's ** 3 takes ten times as long
    return total


def _diagonal_sum(x: np.ndarray) -> float:
    """The kernel of each row with itself, summed."""
    blocks = (x[first:first + BLOCK].astype(np.float64) for first in range(0, len(x), BLOCK))
    return sum((((block**2).sum(axis=1) / x.shape[1] + 1) ** 3).sum() for block in blocks)
