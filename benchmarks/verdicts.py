"""What the verdicts of multipliers are worth, on made-up studies whose truth is known: how often each word is said, and rightly.

    python benchmarks/verdicts.py [--repetitions 120] [--tiny]

Studies are those of ``coverage_multiplier``: two variants, eight checkpoints a run, one luck a run and a wobble of a third of it
a checkpoint. The difference is none, constant, or turning: the variant wins early and loses at the end. "mean alone" is the share
whose interval of the mean leaves out one, which was the whole verdict before ``ditscale.scaling.course``. Then outliers: how
often a run is named where none is off, and where one diverged. The last line is one JSON object.
"""

import argparse
import json
from collections import Counter

import numpy as np
from coverage_multiplier import COSTS, law, made_pair, made_runs, made_sizes

from ditscale.scaling.course import IN_PART, TURNS
from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import INCONCLUSIVE, REAL
from ditscale.scaling.multiplier import multiplier
from ditscale.scaling.outliers import of_runs

SPAN = COSTS[-1] / COSTS[0]
TURNING = {"1.7 to 0.8": (1.7, 0.8, 1.0), "1.7 to 0.9": (1.7, 0.9, 1.0), "2.0 to 0.7": (2.0, 0.7, 1.0),
           "late, 1.7 to 0.8": (1.7, 0.8, 3.0)}


def early_win(rng, seeds: int, sigma: float, first: float = 1.7, last: float = 0.8, bend: float = 1.0) -> tuple[Runs, Runs]:
    """Variant and baseline. At the cost C the variant stands where the baseline stands at C times a gain, which goes from
    ``first`` at the least cost to ``last`` at the most, linear in logarithms or, with ``bend`` above 1, late."""
    costs = COSTS * np.exp(0.02 * rng.standard_normal((seeds, 1)))
    luck, wobble = sigma * rng.standard_normal((seeds, 1)), sigma / 3 * rng.standard_normal(costs.shape)
    score = law(costs * _gain(costs, first, last, bend)) * np.exp(luck + wobble)
    masked = Runs(costs.ravel(), score.ravel(), np.repeat(np.arange(seeds), costs.shape[1]), name="masked")
    return masked, made_runs(rng, seeds, sigma)


def _gain(costs: np.ndarray, first: float, last: float, bend: float) -> np.ndarray:
    along = np.clip(np.log(costs / COSTS[0]) / np.log(SPAN), 0.0, None) ** bend
    return first * (last / first) ** along


def score_of_turn(first: float, last: float, bend: float) -> float:
    """The score at which the true gain is 1: above it the variant is cheaper."""
    costs = np.geomspace(COSTS[0], COSTS[-1], 100_001)
    return float(law(costs[np.argmin(np.abs(np.log(_gain(costs, first, last, bend))))]))


def words(repetitions: int, make, turn: float | None = None, **facts) -> dict:
    """Shares of the studies with each word. ``turn`` is the true score of a turn: the parts told are held against it."""
    said, mean_alone, usable, right = Counter(), 0, 0, []
    for seed in range(repetitions):
        found = multiplier(*make(np.random.default_rng([11, facts["seeds"], round(1e4 * facts["sigma"]), seed]), **facts))
        if not found.status.ok:
            continue
        usable, mean_alone = usable + 1, mean_alone + (1.0 not in found.overall.interval)
        said[found.overall.verdict] += 1
        if turn is not None and found.in_parts:
            right += [min(part.scores) >= turn if part.side == "cheaper" else max(part.scores) <= turn
                      for part in found.course.real_parts]
    told = {"studies": usable, "mean alone": round(mean_alone / usable, 3),
            **{word: round(said[word] / usable, 3) for word in (REAL, TURNS, IN_PART, INCONCLUSIVE)}}
    return told | ({"parts told": len(right), "of them wholly right": round(float(np.mean(right)), 3)} if right else {})


def diverged(pair: tuple[Runs, Runs], factor: float, checkpoints: int) -> tuple[Runs, Runs]:
    """The pair with the first run of the variant ``factor`` times too high at its last checkpoints, a step each up to there."""
    masked, baseline = pair
    score, own = masked.score.copy(), np.flatnonzero(masked.runs == masked.runs[0])
    late = own[np.argsort(masked.cost[own])][-checkpoints:]
    score[late] *= factor ** (np.arange(1, checkpoints + 1) / checkpoints)
    return Runs(masked.cost, score, masked.runs, name=masked.name), baseline


def naming(repetitions: int, seeds: int, sigma: float, factor: float | None = None) -> dict:
    """Of studies with one run off by ``factor``, or none: in how many it is named, and in how many another is."""
    named, others = 0, 0
    for seed in range(repetitions):
        pair = made_pair(np.random.default_rng([12, seeds, round(1e4 * sigma), seed]), seeds, sigma)
        pair = diverged(pair, factor, 3) if factor else pair
        runs = {(one.of, one.run) for one in of_runs(pair).found}
        named, others = named + (("masked", "0") in runs), others + bool(runs - {("masked", "0")})
    return {"studies": repetitions, **({"named": round(named / repetitions, 3)} if factor else {}),
            "another named": round((others if factor else others + named) / repetitions, 3)}


def main() -> None:
    from tiny import parse  # tests import this file from elsewhere

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=120)
    options = parse(parser, repetitions=2)
    times = options.repetitions
    results = {"benchmark": "verdicts", "tiny": options.tiny, "repetitions": times,
               **{part: {} for part in ("none", "constant", "turning", "outliers")}}

    def tell(part: str, name: str, found: dict) -> None:
        results[part][name] = found
        print(f"{part:9s} {name:36s} " + "  ".join(f"{key} {value}" for key, value in found.items()), flush=True)

    for seeds, sigma in ((3, 0.01), (3, 0.02), (3, 0.05), (5, 0.02)):          # shares near 5 % take more studies
        tell("none", f"{seeds} seeds, {sigma:.0%}", words(4 * times, made_pair, seeds=seeds, sigma=sigma, cheaper=1.0))
    tell("none", "3 seeds, 2%, three sizes", words(4 * times, null_sizes, seeds=3, sigma=0.02))
    for gain, sigma in ((1.1, 0.01), (1.1, 0.02), (1.2, 0.02), (1.3, 0.02), (1.3, 0.05), (1.7, 0.05)):
        tell("constant", f"3 seeds, {sigma:.0%}, {gain} times", words(times, made_pair, seeds=3, sigma=sigma, cheaper=gain))
    tell("constant", "3 seeds, 2%, 1.7 times, three sizes", words(times, made_sizes, seeds=3, sigma=0.02))
    tell("turning", "60 studies, 3 seeds, 1%, 1.7 to 0.8",
         words(min(times, 60), early_win, score_of_turn(1.7, 0.8, 1.0), seeds=3, sigma=0.01))
    for name, (first, last, bend) in TURNING.items():
        for sigma in (0.01, 0.02, 0.05):
            facts = {"seeds": 3, "sigma": sigma, "first": first, "last": last, "bend": bend}
            tell("turning", f"3 seeds, {sigma:.0%}, {name}", words(times, early_win, score_of_turn(first, last, bend), **facts))
    for seeds, sigma in ((3, 0.01), (3, 0.02), (3, 0.05)):
        tell("outliers", f"{seeds} seeds, {sigma:.0%}, none is off", naming(times, seeds, sigma))
        for factor in (1.2, 1.5, 4.0):
            tell("outliers", f"{seeds} seeds, {sigma:.0%}, one off by {factor:g}", naming(times, seeds, sigma, factor))
    print(json.dumps(results))


def null_sizes(rng, seeds: int, sigma: float) -> tuple[Runs, Runs]:
    """As ``made_sizes``, without a difference."""
    _, one = made_sizes(rng, seeds, sigma)
    _, other = made_sizes(rng, seeds, sigma)
    return Runs(one.cost, one.score, one.runs, one.models, "masked"), other


if __name__ == "__main__":
    main()
