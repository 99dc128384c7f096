"""The Frechet distance from moments against the usual way, scipy's matrix square root, at Inception's 2048 dimensions.

    python benchmarks/frechet.py [--dimensions 2048] [--samples 6000] [--rounds 3]

Both are timed in turn on the same moments, and the ratio is taken in each round: a noisy machine disturbs both. The last line is
one JSON object.
"""

import argparse
import json
import statistics
import time

import numpy as np
import scipy
from scipy.linalg import sqrtm
from tiny import parse

from ditscale.evaluation.metrics.frechet import frechet_distance
from ditscale.evaluation.metrics.moments import Moments, moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parse(parser, dimensions=32, samples=100, rounds=1)
    a, b = made_moments(options.samples, options.dimensions)
    rounds = []
    for _ in range(options.rounds):
        ours, distance = timed(frechet_distance, a, b)
        usual, by_sqrtm = timed(usual_distance, a, b)
        rounds.append({"seconds": ours, "sqrtm_seconds": usual, "ratio": usual / ours})
        print(rounds[-1], flush=True)
    print(json.dumps({"benchmark": "frechet", "tiny": options.tiny, "dimensions": options.dimensions, "samples": options.samples,
                      "scipy": scipy.__version__, "numpy": np.__version__, "rounds": rounds, "ratio": statistics.median(r["ratio"] for r in rounds),
                      "distance": distance, "relative_difference": abs(by_sqrtm / distance - 1)}))


def made_moments(samples: int, dimensions: int) -> tuple[Moments, Moments]:
    """Moments of two sets of correlated features, rectified as Inception's are."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(dimensions, dimensions)) / dimensions**0.5
    return tuple(moments(np.maximum(rng.normal(size=(samples, dimensions)) @ mix + shift, 0)) for shift in (0.3, 0.35))


def usual_distance(a: Moments, b: Moments) -> float:
    """The formula as pytorch-fid and ADM's evaluator have it."""
    gap, root = a.mean - b.mean, sqrtm(a.covariance @ b.covariance).real
    return float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root))


def timed(distance, a: Moments, b: Moments) -> tuple[float, float]:
    """Seconds, and the distance."""
    began = time.perf_counter()
    value = distance(a, b)
    return time.perf_counter() - began, value


if __name__ == "__main__":
    main()
