"""How often 95 % intervals hold the truth, on made studies of a known law with a floor and a known spread between seeds.

    python benchmarks/coverage_laws.py [--repetitions 500]

Three ways on the same studies: the profile (the default of ``Fit.intervals``), percentiles over resampled runs, and, as the
counter-example, percentiles over resampled checkpoints. Studies have 5 or 8 sizes with 3 seeds; those for the checkpoints have 4
checkpoints a run at growing compute, which share the run's luck. The last line is one JSON object.
"""

import argparse
import json
import time

import numpy as np
from tiny import parse

from ditscale.scaling.bootstrap import bootstrap_runs
from ditscale.scaling.fitting import fit
from ditscale.scaling.laws import PowerLawFloor

LAW = PowerLawFloor(E=8.0, A=60.0, alpha=0.45)
SPAN = 1000.0                     # from the smallest to the largest cost
AT = np.array([1.0, 30.0, 1000.0, 4000.0])
SEED_SPREAD, CHECKPOINT_SPREAD = 0.03, 0.005
RESAMPLES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=500)
    options = parse(parser, repetitions=1)
    began, result = time.perf_counter(), {}
    for sizes, checkpoints in ((5, 1), (8, 1), (5, 4), (8, 4)):
        ways = ("profile", "runs") if checkpoints == 1 else ("profile", "runs", "checkpoints")
        name = f"{sizes} sizes x 3 seeds x {checkpoints} checkpoint{'s' * (checkpoints > 1)}"
        result[name] = {way: coverage(way, sizes, checkpoints, options.repetitions) for way in ways}
        for way, shares in result[name].items():
            print(f"{name:36s} {way:12s} " + "  ".join(f"{k} {100 * v:5.1f} %" for k, v in shares.items()), flush=True)
    print(json.dumps({"benchmark": "coverage_laws", "tiny": options.tiny, "law": LAW.coefficients(), "seed_spread": SEED_SPREAD, "level": 0.95,
                      "repetitions": options.repetitions, "resamples": RESAMPLES, "coverage": result,
                      "seconds": time.perf_counter() - began}))


def study(sizes: int, checkpoints: int, rng: np.random.Generator, seeds: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cost, score and run of every point. A run's luck is shared by its checkpoints; each adds a little of its own."""
    ends = np.repeat(np.geomspace(1.0, SPAN, sizes), seeds)
    x = (ends[:, None] * np.geomspace(0.5, 1.0, checkpoints) if checkpoints > 1 else ends[:, None])
    luck = SEED_SPREAD * rng.standard_normal((len(ends), 1))
    own = CHECKPOINT_SPREAD * rng.standard_normal(x.shape) * (checkpoints > 1)
    runs = np.repeat(np.arange(len(ends)), checkpoints)
    return x.ravel(), (LAW.evaluate(x) * np.exp(luck + own)).ravel(), runs


def coverage(way: str, sizes: int, checkpoints: int, repetitions: int, seed: int = 0) -> dict[str, float]:
    """The share of studies whose interval holds the truth: each coefficient, and the law at each of ``AT``."""
    rng, truth = np.random.default_rng(seed), LAW.evaluate(AT)
    hits = {**dict.fromkeys(LAW.coefficients(), 0), **{f"y({x:g})": 0 for x in AT}}
    for _ in range(repetitions):
        found = intervals(way, *study(sizes, checkpoints, rng))
        for name, value in LAW.coefficients().items():
            hits[name] += value in found.coefficients[name]
        for x, value, low, high in zip(AT, truth, found.band.low, found.band.high):
            hits[f"y({x:g})"] += bool(low <= value <= high)
    return {name: count / repetitions for name, count in hits.items()}


def intervals(way: str, x, y, runs):
    if way == "profile":
        return fit("power_law_floor", x, y, runs).intervals(at=AT)
    return bootstrap_runs(x, y, runs if way == "runs" else None, form="power_law_floor", grid=AT, resamples=RESAMPLES)


if __name__ == "__main__":
    main()
