"""How often 95 % intervals of break-even numbers of images hold the truth, on made-up runs of two models whose law is known.

    python benchmarks/coverage_break_even.py [--repetitions 500]

Each model has 3 or 5 runs of eight checkpoints on L = E + A F^-alpha + B D^-beta; a run has one luck, shared by its checkpoints, and each checkpoint a
wobble of a third of it. Next to the interval of ``scaling.break_even``, percentiles of resampled runs. The last line is one JSON object.
"""

import argparse
import json

import numpy as np
from tiny import parse

from ditscale.scaling.bootstrap import times_drawn
from ditscale.scaling.break_even import break_even
from ditscale.scaling.curves import Runs
from ditscale.scaling.interval import percentiles
from ditscale.scaling.laws import Chinchilla

LAW = Chinchilla(E=2.0, A=2000.0, B=300.0, alpha=0.35, beta=0.30)
SIZES, FORWARDS = (1e9, 4e9), 100                                              # forward FLOPs per image, forwards per image made
DATA = ((1e8, 8e8), (2e7, 3.2e8))                                              # images seen, first and last checkpoint of each model
SCORE = float(LAW.evaluate({"N": np.array([SIZES[0]]), "D": np.array([4e8])})[0])
CASES = [(seeds, sigma) for seeds in (3, 5) for sigma in (0.002, 0.005, 0.01)]
RESAMPLES = 1000


def true_images() -> float:
    """The law's break-even number at ``SCORE``."""
    costs = [3 * size * (LAW.B / (SCORE - LAW.E - LAW.A * size**-LAW.alpha)) ** (1 / LAW.beta) for size in SIZES]
    return (costs[0] - costs[1]) / (FORWARDS * (SIZES[1] - SIZES[0]))


def made_runs(rng, size: float, span: tuple[float, float], seeds: int, sigma: float) -> Runs:
    data = np.geomspace(*span, 8)
    noise = sigma * rng.standard_normal((seeds, 1)) + sigma / 3 * rng.standard_normal((seeds, 8))
    score = LAW.evaluate({"N": np.full(8, size), "D": data}) * np.exp(noise)
    return Runs(np.tile(3 * size * data, seeds), score.ravel(), np.repeat(np.arange(seeds), 8), name=f"{size:g}")


def resampled(small: Runs, large: Runs, seed: int):
    """Percentiles over runs drawn with replacement."""
    costs = []
    for i, side in enumerate((small, large)):
        logs = np.array([float(curve.log_cost_at(np.log(SCORE))) for curve in side.curves()])
        costs.append(np.exp(times_drawn(len(logs), RESAMPLES, 2 * seed + i) @ logs / len(logs)))
    return percentiles((costs[0] - costs[1]) / (FORWARDS * (SIZES[1] - SIZES[0])))


def coverage(seeds: int, sigma: float, repetitions: int) -> dict:
    rng, truth, hits, usable = np.random.default_rng(0), true_images(), {"student": 0, "resampled_runs": 0}, 0
    for repetition in range(repetitions):
        small, large = (made_runs(rng, size, span, seeds, sigma) for size, span in zip(SIZES, DATA))
        found = break_even(small, large, (FORWARDS * SIZES[0], FORWARDS * SIZES[1]), score=SCORE, seed=repetition)
        if not found.status.ok:
            continue
        usable += 1
        hits["student"] += truth in found.interval
        hits["resampled_runs"] += truth in resampled(small, large, repetition)
    return {"seeds": seeds, "sigma": sigma, "usable": usable, **{name: count / usable if usable else None for name, count in hits.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=500)
    arguments = parse(parser, repetitions=3)
    cases = []
    for seeds, sigma in CASES:
        cases.append(coverage(seeds, sigma, arguments.repetitions))
        print(cases[-1], flush=True)
    print(json.dumps({"benchmark": "coverage_break_even", "tiny": arguments.tiny, "repetitions": arguments.repetitions,
                      "true_images": true_images(), "cases": cases}))


if __name__ == "__main__":
    main()
