"""Frechet distance between two sets of features, in float64.

``d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 |R1^T R2|_*`` with ``R R^T = S``: the nuclear norm of the product of any two roots.
Roots are taken before the product, so rounding is not amplified if a covariance is singular.
"""

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf

from ditscale.evaluation.metrics.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared Frechet distance, the number that FID reports. NaN if a moment is not finite."""
    if not all(np.isfinite(part).all() for part in (a.mean, b.mean, a.covariance, b.covariance)):
        return float("nan")
    cross = torch.linalg.svdvals(torch.from_numpy(_root(a.covariance).T @ _root(b.covariance))).sum().item()
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    """(D, K) with ``root @ root.T == covariance``; directions that are rounding noise are dropped.

    A pivoted Cholesky factor takes a tenth of the time of an eigendecomposition. It fails if the matrix has negative
    eigenvalues, as one stored in float32 may: its diagonal shows this, and eigenvectors are used instead.
    """
    diagonal = np.diag(covariance)
    noise = diagonal.max() * len(diagonal) * np.finfo(np.float64).eps          # LAPACK stops at pivots below this
    factor, pivots, rank, _ = dpstrf(covariance, lower=1)
    root = np.empty((len(diagonal), rank))
    root[pivots - 1] = np.tril(factor)[:, :rank]
    if abs((root**2).sum(axis=1) - diagonal).max() <= 2 * noise:
        return root
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])
