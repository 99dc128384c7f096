"""How often laws over checkpoints are doubted, rightly or not, and how often their extrapolations hold what is measured there.

    python benchmarks/coverage_along_runs.py [--repetitions 400] [--tiny]

A power law in the training compute is fitted to made-up runs with ten checkpoints up to 1, and asked at 2 and at 4 times that. The
truth is a power law, or bends towards a floor (a share of the score at x = 1, up to 0.6), or breaks in slope inside the data. Noise:
luck that a run keeps, a part that drifts along it, a part of each checkpoint. "measured" is the mean of the same runs continued.
The last line is one JSON object.
"""

import argparse
import json
import time

import numpy as np
from tiny import parse

from ditscale.scaling.fitting import fit

X = np.linspace(0.1, 1.0, 10)
AT = np.array([2.0, 4.0])
NOISES = {"luck": (0.02, 0.0, 0.005), "drift": (0.0, 0.02, 0.005), "checkpoints": (0.01, 0.01, 0.01)}     # luck, drift, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=400)
    options = parse(parser, repetitions=3)
    times, began, result = options.repetitions, time.perf_counter(), {}
    for truth in ("power law", "slightly bent", "bent", "broken"):
        for runs in ("3 seeds", "5 seeds", "5 sizes, 1 seed"):
            found = result[f"{truth}; {runs}"] = shares(truth, runs, tuple(NOISES), times)
            print(f"{truth:14s} {runs:16s} " + "  ".join(
                f"{k} {'none' if v is None else f'{100 * v:.1f} %'}" for k, v in found.items()), flush=True)
    print(json.dumps({"benchmark": "coverage_along_runs", "tiny": options.tiny, "repetitions": times, "level": 0.95, "noises": NOISES, "shares": result,
                      "seconds": time.perf_counter() - began}))


def curve(truth: str, rng: np.random.Generator):
    """ln of the score at ln x, drawn anew: a function of arrays."""
    alpha = rng.uniform(0.3, 1.0)
    if truth == "power law":
        return lambda log_x: -alpha * log_x
    if truth == "broken":
        at, less, width = rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.8), 0.2
        return lambda log_x: -alpha * log_x + less * alpha * width * np.logaddexp(0.0, (log_x - np.log(at)) / width)
    share = rng.uniform(0.0, 0.1) if truth == "slightly bent" else rng.uniform(0.1, 0.6)
    return lambda log_x: np.log(share + (1.0 - share) * np.exp(-alpha * log_x))


def study(truth: str, runs: str, noise: str, rng: np.random.Generator):
    """x, y and run of every point; the truth at ``AT`` and the mean that the same runs, continued, measure there, ``(2,)`` each."""
    luck, drift, own = NOISES[noise]
    law, count = curve(truth, rng), int(runs[0])
    ends = np.geomspace(0.2, 1.0, count) if "1 seed" in runs else np.ones(count)
    x = np.column_stack([ends[:, None] * X, np.broadcast_to(AT, (count, 2))])
    y = law(np.log(x))
    for row in range(count):
        log_x = np.log(x[row])
        together = luck**2 + drift**2 * np.exp(-np.abs(log_x[:, None] - log_x)) + own**2 * np.eye(len(log_x))
        y[row] += np.linalg.cholesky(together) @ rng.standard_normal(len(log_x))
    inside = x[:, : len(X)]
    return (inside.ravel(), 20.0 * np.exp(y[:, : len(X)]).ravel(), np.repeat(np.arange(count), len(X)),
            20.0 * np.exp(law(np.log(AT))), 20.0 * np.exp(y[:, len(X):].mean(axis=0)))


def shares(truth: str, runs: str, noises: tuple[str, ...], repetitions: int, seed: int = 0) -> dict[str, float | None]:
    """Of the studies, in turn of each noise: what was told; and of those with an interval beyond the data, how many hold the truth and the measured."""
    rng, told, held = np.random.default_rng(seed), [], []
    for number in range(repetitions):
        x, y, groups, true, measured = study(truth, runs, noises[number % len(noises)], rng)
        law = fit("power_law", x, y, groups)
        told.append((law.lack_of_fit.p is not None and law.lack_of_fit.p < 0.05, law.lack_of_fit.significant,
                     law.hold_out_in_time.failed, bool(law.no_extension)))
        if not law.no_extension:
            band = law.intervals(at=AT).band
            width = np.log(band.high) - np.log(np.maximum(band.low, 1e-300))               # an open end is 0
            held.append([(band.low <= value) & (value <= band.high) for value in (true, measured)] + [width / 2])
    said = dict(zip(("lack of fit p < 0.05", "lack of fit told", "time hold-out failed", "no interval"), np.mean(told, axis=0).tolist()))
    rows = np.array(held, dtype=float) if held else np.full((1, 3, 2), np.nan)
    rows = np.concatenate([rows[:, :2].mean(axis=0), np.median(rows[:, 2:], axis=0)])
    names = ("holds the truth", "holds the measured", "median half width")
    given = {f"{name} at {x:g}": float(rows[i, j]) for i, name in enumerate(names) for j, x in enumerate(AT)}
    return said | {name: value if np.isfinite(value) else None for name, value in given.items()}


if __name__ == "__main__":
    main()
