"""The types for intervals: level, two ends, and a law's band."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Band:
    """The interval of the law itself at each x of a grid (not of the next point). Arrays ``(k,)``.

    ``x`` is a dict of arrays by variable if the law has several.
    """

    x: np.ndarray | dict
    low: np.ndarray
    high: np.ndarray


def half_width(values: np.ndarray) -> float:
    """Half the width of Student's interval of the mean of two or more independent values ``(n,)``."""
    return special.stdtrit(len(values) - 1, 0.5 + LEVEL / 2) * values.std(ddof=1) / math.sqrt(len(values))


def percentiles(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, tails())
    return Interval(float(low), float(high))


def tails() -> tuple[float, float]:
    """The two quantiles that bound an interval."""
    return (1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0
