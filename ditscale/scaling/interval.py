"""The types of intervals: level, two ends, and a law's band."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Band:
    """The law's own interval at each x of a grid (not where the next point will fall). Arrays ``(k,)``.

    ``x`` is a dict of arrays by variable where the law has several.
    """

    x: np.ndarray | dict
    low: np.ndarray
    high: np.ndarray


def half_width(values: np.ndarray) -> float:
    """Half of Student's interval of the mean of independent values ``(n,)``, two or more."""
    return stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))


def percentiles(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, tails())
    return Interval(float(low), float(high))


def tails() -> tuple[float, float]:
    """The two quantiles between which an interval lies."""
    return (1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0
