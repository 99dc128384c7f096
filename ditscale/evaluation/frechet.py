"""Frechet distance between two sets of features, in float64.

``d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 |R1^T R2|_*`` with ``R R^T = S``: the nuclear norm of the product of square roots.
The square root is taken before the product, so rounding is not amplified where a covariance is singular.
"""

import numpy as np

from ditscale.evaluation.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared Frechet distance, the number that FID reports. NaN where a moment is not finite."""
    if not all(np.isfinite(part).all() for part in (a.mean, b.mean, a.covariance, b.covariance)):
        return float("nan")
    cross = np.linalg.svd(_root(a.covariance).T @ _root(b.covariance), compute_uv=False).sum()
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    """(D, K) with ``root @ root.T == covariance``; directions that are rounding noise are dropped."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])
