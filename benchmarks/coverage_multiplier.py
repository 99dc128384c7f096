"""How often 95 % intervals of multipliers and frontiers hold the truth, on made-up studies whose law is known.

    python benchmarks/coverage_multiplier.py [--repetitions 500]

A study has two variants, 3 or 5 seeds each, eight checkpoints a run. Each run has one luck, shared by its checkpoints, and each
checkpoint a wobble of a third of it. Beside the default interval stand a percentile bootstrap of whole runs, and one of
checkpoints, which is what one must not do. The last line is one JSON object.
"""

import argparse
import json

import numpy as np
from tiny import parse

from ditscale.scaling.curves import Runs, make_curve
from ditscale.scaling.differences import REAL
from ditscale.scaling.frontier import frontier
from ditscale.scaling.multiplier import multiplier
from ditscale.scaling.noise import pooled_noise

CHEAPER, FLOOR = 1.7, 2.0                                                      # the true multiplier, the score that no cost beats
COSTS = np.geomspace(1e17, 1.6e18, 8)
RESAMPLES = 100
CASES = [(seeds, sigma) for seeds in (3, 5) for sigma in (0.01, 0.02, 0.05)]


def law(cost):
    """The baseline's score: a power law over a floor. The variant's is the same at ``CHEAPER`` times the cost."""
    return FLOOR + 60.0 * (np.asarray(cost) / 1e17) ** -0.45


def made_runs(rng, seeds: int, sigma: float, cheaper: float = 1.0, name: str = "baseline", costs=COSTS) -> Runs:
    """Runs of one variant, at costs spread a little apart from those of other seeds, as accelerator-hours are."""
    costs = np.asarray(costs) * np.exp(0.02 * rng.standard_normal((seeds, 1)))
    luck, wobble = sigma * rng.standard_normal((seeds, 1)), sigma / 3 * rng.standard_normal(costs.shape)
    return Runs(costs.ravel(), (law(costs * cheaper) * np.exp(luck + wobble)).ravel(), np.repeat(np.arange(seeds), costs.shape[1]),
                name=name)


def made_pair(rng, seeds: int, sigma: float, cheaper: float = CHEAPER, uneven: float = 1.0, costs=COSTS) -> tuple[Runs, Runs]:
    """Variant and baseline; ``uneven`` is how much noisier the variant is."""
    return made_runs(rng, seeds, uneven * sigma, cheaper, "masked", costs), made_runs(rng, seeds, sigma, costs=costs)


def made_sizes(rng, seeds: int, sigma: float) -> tuple[Runs, Runs]:
    """As ``made_pair`` with three sizes a variant, larger ones at ever higher costs: their curves cross."""
    sides = []
    for name, cheaper in (("masked", CHEAPER), ("baseline", 1.0)):
        own = [made_runs(rng, seeds, sigma, cheaper, name, scale * COSTS) for scale in (1.0, 4.0, 16.0)]
        score = [runs.score * bend for runs, bend in zip(own, (1.0, 0.9, 0.8))]
        names = [np.char.add(f"{i}-", runs.runs) for i, runs in enumerate(own)]
        sides.append(Runs(np.concatenate([runs.cost for runs in own]), np.concatenate(score), np.concatenate(names),
                          np.repeat(["small", "middle", "large"], [len(runs.cost) for runs in own]), name))
    return tuple(sides)


def multiplier_coverage(seeds: int, sigma: float, repetitions: int, make=made_pair, bootstraps: bool = False, **law_facts) -> dict:
    """Shares of repetitions whose interval holds the true multiplier; ``REAL`` counts the verdict."""
    hits, usable, real, cheaper = {}, 0, 0, law_facts.get("cheaper", CHEAPER)
    for seed in range(repetitions):
        rng = np.random.default_rng([seeds, round(1e4 * sigma), seed])
        pair = make(rng, seeds, sigma, **law_facts)
        found = multiplier(*pair)
        if not found.status.ok:
            continue
        usable, real, middle = usable + 1, real + (found.overall.verdict == REAL), found.targets[len(found.targets) // 2]
        told = {"overall": cheaper in found.overall.interval}
        if middle.status.ok:
            told["middle target"] = cheaper in middle.interval
        if make is made_pair and "uneven" not in law_facts:
            told["noise pooled"] = cheaper in multiplier(*pair, noise=other_cells(rng, seeds, sigma)).overall.interval
        if bootstraps:
            told["bootstrap of runs"] = holds(cheaper, bootstrap_of_runs(pair, rng, found))
            told["bootstrap of checkpoints"] = holds(cheaper, bootstrap_of_checkpoints(pair, rng, found))
        for name, hit in told.items():
            hits.setdefault(name, []).append(bool(hit))
    return {"usable": usable, "REAL": round(real / usable, 3), **{name: round(float(np.mean(hit)), 3) for name, hit in hits.items()}}


def other_cells(rng, seeds: int, sigma: float):
    """Noise pooled over eight more cells of the study, each of runs of its own."""
    cells = np.repeat(np.arange(8), seeds)
    return pooled_noise(np.exp(sigma * np.hypot(1, 1 / 3) * rng.standard_normal(len(cells))), cells)


def holds(value: float, drawn: list[float]) -> bool:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return low <= value <= high


def bootstrap_of_runs(pair, rng, found) -> list[float]:
    """Percentile bootstrap of whole runs: each run's ln C at the targets is taken, and runs are drawn again."""
    levels = np.log([at.target for at in found.targets if at.status.ok])
    sides = [np.array([curve.log_cost_at(levels).mean() for curve in runs.curves()]) for runs in pair]
    drawn = [side[rng.integers(len(side), size=(RESAMPLES, len(side)))].mean(axis=1) for side in sides]
    return list(np.exp(drawn[1] - drawn[0]))


def bootstrap_of_checkpoints(pair, rng, found) -> list[float]:
    """The wrong way: all checkpoints of a variant in one pot, drawn again as if each were a run of its own."""
    levels, drawn = np.log([at.target for at in found.targets if at.status.ok]), []
    for _ in range(RESAMPLES):
        sides = []
        for runs in pair:
            pick = rng.integers(len(runs.cost), size=len(runs.cost))
            sides.append(make_curve(runs.cost[pick], runs.score[pick], "all", "", True).log_cost_at(levels))
        gain = np.nanmean(sides[1] - sides[0]) if np.isfinite(sides[1] - sides[0]).any() else np.nan
        drawn.append(np.exp(gain))
    return [value for value in drawn if np.isfinite(value)]


def made_frontier(rng, seeds: int, sigma: float):
    """Three sizes, checkpoints of a run sharing its luck: points, and the true score of each cell. Where the curves lie, and so
    which cells are near ties, is drawn anew each time."""
    sizes, checkpoints = (1.0, 4.0, 16.0), np.geomspace(1, 32, 6)
    better, faster = rng.uniform(0.0, 0.3), rng.uniform(0.3, 0.6)
    cost, score, cells, runs, truth = [], [], [], [], {}
    for size in sizes:
        true = 20.0 * size**-better + 60.0 * checkpoints**-faster                 # what it cannot beat, and what training brings
        for k, value in enumerate(true):
            truth[f"{size:g} at {k}"] = value
        for seed in range(seeds):
            luck, wobble = sigma * rng.standard_normal(), sigma / 3 * rng.standard_normal(len(checkpoints))
            cost.extend(1e17 * size * checkpoints)
            score.extend(true * np.exp(luck + wobble))
            cells.extend(f"{size:g} at {k}" for k in range(len(checkpoints)))
            runs.extend([f"{size:g} seed {seed}"] * len(checkpoints))
    return (cost, score, cells, runs), truth


def frontier_coverage(seeds: int, sigma: float, repetitions: int) -> dict:
    """Coverage of the frontier's score at costs, and the share of true statements among those of a stated probability."""
    hits, told, naive, statements = 0, 0, 0, []
    for seed in range(repetitions):
        rng = np.random.default_rng([7, seeds, round(1e4 * sigma), seed])
        points, truth = made_frontier(rng, seeds, sigma)
        found = frontier(*points)
        true = frontier([found.by_name[name].cost for name in truth], list(truth.values()), list(truth))
        for cost in (3e17, 1e18, 3e18, 1e19):
            hits, told = hits + (true.at(cost).score in found.at(cost).interval), told + 1
        statements += [(cell.probability, true.by_name[cell.name].on_frontier) for cell in found.cells]
        cells = rng.permutation(list(truth))
        statements += [(found.dominance(a, b), truth[a] < truth[b]) for a, b in zip(cells, cells[1:])
                       if found.by_name[a].cost <= found.by_name[b].cost]
        crowd = frontier(*points[:3])                                          # checkpoints as if each were a run of its own
        naive += sum(true.at(cost).score in crowd.at(cost).interval for cost in (3e17, 1e18, 3e18, 1e19))
    return {"score at a cost": round(hits / told, 3), "the same, checkpoints as runs": round(naive / told, 3), **calibration(statements)}


def calibration(statements: list[tuple[float, bool]]) -> dict:
    """Of the statements whose probability is about p, or of their opposites where it is about 1 - p: the share that is true."""
    p, true = np.array([s[0] for s in statements]), np.array([s[1] for s in statements], bool)
    p, true = np.where(p < 0.5, 1 - p, p), np.where(p < 0.5, ~true, true)
    told = {}
    for low, high in ((0.6, 0.8), (0.8, 0.95), (0.95, 0.999)):
        held = (p >= low) & (p < high)
        told[f"said {p[held].mean():.3f}"] = f"true {true[held].mean():.3f} of {held.sum()}"
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=500)
    options = parse(parser, repetitions=1)
    times = options.repetitions
    results = {"benchmark": "coverage_multiplier", "tiny": options.tiny, "repetitions": times, "multiplier": {}, "frontier": {}}

    def tell(part: str, name: str, found: dict) -> None:
        results[part][name] = found
        print(f"{part:10s} {name:34s} " + "  ".join(f"{key} {value}" for key, value in found.items()), flush=True)

    for seeds, sigma in CASES:
        tell("multiplier", f"{seeds} seeds, noise {sigma:.0%}", multiplier_coverage(seeds, sigma, times, bootstraps=sigma == 0.02))
    for seeds in (3, 5):
        tell("multiplier", f"{seeds} seeds, 2%, no difference", multiplier_coverage(seeds, 0.02, times, cheaper=1.0))
        tell("multiplier", f"{seeds} seeds, 1% and 3%", multiplier_coverage(seeds, 0.01, times, uneven=3.0))
        tell("multiplier", f"{seeds} seeds, 2%, flat", multiplier_coverage(seeds, 0.02, times, costs=1e4 * COSTS))
        tell("multiplier", f"{seeds} seeds, 2%, three sizes", multiplier_coverage(seeds, 0.02, times, made_sizes))
    for seeds, sigma in CASES:
        tell("frontier", f"{seeds} seeds, noise {sigma:.0%}", frontier_coverage(seeds, sigma, times))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
