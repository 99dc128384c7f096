"""Whether two groups of runs score differently: Welch's interval on the log scores, and a verdict that never flatters.

Two seeds give an interval by formula alone, but of twelve to one in length by luck; under three in a group none is given.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ditscale.scaling.interval import LEVEL, Interval

MIN_SEEDS = 3
REAL, INCONCLUSIVE = "REAL", "INCONCLUSIVE"


@dataclass(frozen=True)
class Difference:
    """``change`` is the ratio of geometric means less one: -0.1 where the scores are 10 % below the baseline's."""

    change: float
    interval: Interval | None
    verdict: str
    reason: str


def compare_scores(scores, baseline) -> Difference:
    """Scores of runs that differ in seed alone, positive, against the baseline's."""
    a, b = np.log(np.asarray(scores, float)), np.log(np.asarray(baseline, float))
    shift = a.mean() - b.mean()
    change, seeds = math.expm1(shift), min(len(a), len(b))
    if seeds < MIN_SEEDS:
        reason = "one seed gives no estimate of the noise" if seeds == 1 else f"{seeds} seeds are too few for an interval"
        return Difference(change, None, INCONCLUSIVE, reason)
    half = _half_width(a, b)
    interval = Interval(math.expm1(shift - half), math.expm1(shift + half))
    if 0.0 in interval:
        return Difference(change, interval, INCONCLUSIVE, "the interval holds zero")
    return Difference(change, interval, REAL, "the interval leaves out zero")


def _half_width(a: np.ndarray, b: np.ndarray) -> float:
    """Half of Welch's interval of the difference of two means, unequal variances, ``LEVEL`` sure."""
    parts = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if sum(parts) == 0:
        return 0.0
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    return float(stats.t.ppf(0.5 + LEVEL / 2, freedom) * math.sqrt(sum(parts)))
