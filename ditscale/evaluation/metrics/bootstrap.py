"""The standard error of a Frechet distance over the choice of sampled images."""

import numpy as np

from ditscale.evaluation.metrics.frechet import frechet_distance
from ditscale.evaluation.metrics.moments import Moments, moments


def bootstrap_error(features: np.ndarray, reference: Moments, *, replicates: int = 50, seed: int = 0) -> float:
    """The spread of the distance to a fixed reference when images are resampled, with replacement, from features (N, D).

    A resample repeats images, so its distance is biased upward, as with fewer images. Only the spread of the
    replicates is meaningful, not their mean or percentiles.
    """
    rng, count = np.random.default_rng(seed), len(features)
    distances = [frechet_distance(moments(features, rng.integers(count, size=count)), reference) for _ in range(replicates)]
    return float(np.std(distances, ddof=1))
