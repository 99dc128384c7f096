"""Two correlations: that of the DiT paper's Figure 8, and the rank correlation, which assumes no law."""

import math
from dataclasses import dataclass

import numpy as np

from ditscale.errors import count
from ditscale.scaling.status import MIN_DISTINCT_X, Status, as_points, first_bad


@dataclass(frozen=True)
class Correlation:
    """``value`` is in [-1, 1]; NaN if ``status`` is not CONVERGED."""

    kind: str
    value: float
    n: int
    status: Status
    detail: str = ""


def pearson_log_x(x, y) -> Correlation:
    """Pearson's r of log x with y, as in DiT Fig. 8 (arXiv 2212.09748), where FID is not in logarithms.

    x must be positive and y finite; shapes ``(n,)``. The base of the logarithm does not matter.
    """
    return _correlate("Pearson r of log x with y", x, y, lambda x, y: np.corrcoef(np.log(x), y)[0, 1])


def spearman(x, y) -> Correlation:
    """Spearman's rank correlation of x with y; ties get their mean rank; shapes ``(n,)``."""
    return _correlate("Spearman rank correlation of x with y", x, y, lambda x, y: np.corrcoef(_ranks(x), _ranks(y))[1, 0])


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value from 1, ties at their mean rank; ``(n,)``."""
    _, where, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[where]


def _correlate(kind: str, x, y, of) -> Correlation:
    x, y, groups = as_points(x, y)
    bad = first_bad(x, y, groups, y_in_log=False)
    if bad:
        return Correlation(kind, math.nan, len(x), Status.BAD_DATA, bad)
    if len(x) < MIN_DISTINCT_X:
        return Correlation(kind, math.nan, len(x), Status.TOO_FEW_POINTS, count(len(x), 'point'))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(kind, math.nan, len(x), Status.NO_SPREAD, "x" if np.ptp(x) == 0 else "y")
    return Correlation(kind, float(of(x, y)), len(x), Status.CONVERGED)
