"""Frechet distance between two sets of features, in float64.

``d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 |R1^T R2|_*`` with ``R R^T = S``: the nuclear norm of the product of square roots.
The square root is taken before the product, so rounding is not amplified where a covariance is singular.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and unbiased covariance (D, D) of features."""

    count: int
    mean: np.ndarray
    covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Moments of features (N, D)."""
    features = np.asarray(features, dtype=np.float64)
    mean = features.mean(axis=0)
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared Frechet distance, the number that FID reports."""
    cross = np.linalg.svd(_root(a.covariance).T @ _root(b.covariance), compute_uv=False).sum()
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    """(D, K) with ``root @ root.T == covariance``; directions that are rounding noise are dropped."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])
