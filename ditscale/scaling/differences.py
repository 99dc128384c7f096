"""Tests whether two groups of runs score differently: Welch's interval on the log scores, and a conservative verdict.

Two seeds would give an interval, but its length varies by a factor of twelve by chance; with fewer than three per group none is given.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from ditscale.scaling.interval import LEVEL, Interval

MIN_SEEDS = 3
REAL, INCONCLUSIVE = "REAL", "INCONCLUSIVE"


@dataclass(frozen=True)
class Difference:
    """``change`` is the ratio of geometric means minus one: -0.1 means that the scores are 10 % below the baseline's."""

    change: float
    interval: Interval | None
    verdict: str
    reason: str


def compare_scores(scores, baseline) -> Difference:
    """Compares positive scores of runs that differ only in seed with the baseline's."""
    a, b = np.log(np.asarray(scores, float)), np.log(np.asarray(baseline, float))
    shift = a.mean() - b.mean()
    change, seeds = math.expm1(shift), min(len(a), len(b))
    if seeds < MIN_SEEDS:
        return Difference(change, None, INCONCLUSIVE, too_few(seeds))
    sigma, freedom = welch([a, b])
    half = float(special.stdtrit(freedom, 0.5 + LEVEL / 2) * sigma) if sigma else 0.0
    interval = Interval(math.expm1(shift - half), math.expm1(shift + half))
    if 0.0 in interval:
        return Difference(change, interval, INCONCLUSIVE, "the interval contains zero")
    return Difference(change, interval, REAL, "the interval excludes zero")


def too_few(seeds: int) -> str:
    """Why this number of seeds has no interval."""
    return "one seed gives no estimate of the noise" if seeds == 1 else f"{seeds} seeds are too few for an interval"


def welch(parts: list[np.ndarray]) -> tuple[float, float]:
    """Standard error of a sum of independent means, and its degrees of freedom (Welch and Satterthwaite)."""
    variances = np.array([part.var(ddof=1) / len(part) for part in parts])
    if not variances.sum():
        return 0.0, float(sum(len(part) - 1 for part in parts))
    freedom = variances.sum() ** 2 / sum(v**2 / (len(part) - 1) for v, part in zip(variances, parts))
    return float(math.sqrt(variances.sum())), float(freedom)
