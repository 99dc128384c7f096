"""The standard error of a Frechet distance over the choice of sampled images."""

import numpy as np

from ditscale.evaluation.metrics.frechet import frechet_distance
from ditscale.evaluation.metrics.moments import Moments, moments


def bootstrap_error(features: np.ndarray, reference: Moments, *, replicates: int = 50, seed: int = 0) -> float:
    """The spread of the distance to a fixed reference when images are drawn again, with replacement, from features (N, D).

    A resample repeats images, so its distance is biased upwards, as that of fewer images would be. Only the spread of the
    replicates is of use, never their mean or their percentiles.
    """
    rng, count = np.random.default_rng(seed), len(features)
    distances = [frechet_distance(moments(features, rng.integers(count, size=count)), reference) for _ in range(replicates)]
    return float(np.std(distances, ddof=1))
