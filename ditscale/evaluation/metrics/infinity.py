"""FD-infinity (Chong and Forsyth 2020): the Frechet distance extrapolated to infinitely many samples.

The distance of N samples to a fixed reference is ``a + b / N`` to first order. A line fitted to distances over 1/N gives a.
"""

from dataclasses import dataclass

import numpy as np

from ditscale.errors import UserError
from ditscale.evaluation.metrics.frechet import frechet_distance
from ditscale.evaluation.metrics.moments import Moments, moments

POINTS = 15


@dataclass(frozen=True)
class InfinityFit:
    """``distance = value + slope / N`` through ``points`` of (N, distance)."""

    value: float                                                               # the intercept: FD-infinity
    slope: float                                                               # the bias of N samples is slope / N
    r2: float                                                                  # share of the points' variance explained by the line
    points: list[tuple[int, float]]


def frechet_infinity(features: np.ndarray, reference: Moments, *, points: int = POINTS, seed: int = 0) -> InfinityFit:
    """Fit distances of random subsets of features (N, D), which may be a memory map, against the reference.

    Sizes are evenly spaced from N / 10 (5,000 of 50,000, as in the paper) or 2 D, whichever is larger, to N; each has its own
    subset. Below 2 D covariances are nearly singular, and the bias is no longer linear in 1/N.

    Raises:
        UserError: N is below 4 D: the sizes would be too close to each other.
    """
    count, dimensions = features.shape
    if count < 4 * dimensions:
        raise UserError(f"FD-infinity in {dimensions} dimensions needs at least {4 * dimensions} samples; there are {count}")
    rng = np.random.default_rng(seed)
    sizes = np.linspace(max(count // 10, 2 * dimensions), count, points).round().astype(int)
    distances = np.array([frechet_distance(moments(features, rng.choice(count, size, replace=False)), reference)
                          for size in sizes])
    design = np.stack([np.ones(points), 1 / sizes], axis=1)
    (value, slope), *_ = np.linalg.lstsq(design, distances, rcond=None)
    left, spread = distances - design @ (value, slope), distances - distances.mean()
    return InfinityFit(float(value), float(slope), float(1 - left @ left / (spread @ spread)),
                       [(int(size), float(distance)) for size, distance in zip(sizes, distances)])
