"""Runs that differ only in seed as one curve: their mean and its interval if there are enough seeds, or for many seeds the median and a band."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ditscale.scaling.differences import MIN_SEEDS
from ditscale.scaling.interval import half_width

COLUMNS = ["x", "mean", "low", "high", "seeds"]
MOST_LINES = 12                         # more seeds than these are a band instead of a line each
BAND = 0.05, 0.95                       # its quantiles


def over_seeds(rows: pd.DataFrame, x: str, y: str = "score", log: bool = True) -> pd.DataFrame:
    """The mean over runs at each x that all of them share, sorted by x, with columns ``COLUMNS``.

    Args:
        rows: of runs that differ only in seed; column ``run_id`` names them.
        log: geometric means and intervals of the logarithms; y must be positive.

    Returns:
        ``low`` and ``high`` bound Student's 95 % interval of the mean; NaN with fewer than three seeds.
    """
    runs = rows["run_id"].nunique()
    shared = [(at, values) for at, values, count in _at_each_x(rows, x, y) if count == runs]
    return pd.DataFrame([(at, *mean_and_interval(values, log), runs) for at, values in shared], columns=COLUMNS)


def spread(rows: pd.DataFrame, x: str, y: str = "score") -> np.ndarray:
    """x, median and the quantiles ``BAND`` of the runs at each x that half of them or more have, sorted by x, ``(k, 4)``."""
    runs = rows["run_id"].nunique()
    found = [(at, np.median(values), *np.quantile(values, BAND)) for at, values, count in _at_each_x(rows, x, y) if 2 * count >= runs]
    return np.array(found, float).reshape(-1, 4)


def _at_each_x(rows: pd.DataFrame, x: str, y: str) -> Iterator[tuple[float, np.ndarray, int]]:
    """Each x in order, the values there, in the order of the rows, and the number of runs that have it."""
    found, where = np.unique(rows[x].to_numpy(), return_inverse=True)
    run, values = pd.factorize(rows["run_id"])[0], rows[y].to_numpy(float)
    for i, at in enumerate(found):
        there = where == i
        yield at, values[there], len(np.unique(run[there]))


def mean_and_interval(values: np.ndarray, log: bool = True) -> tuple[float, float, float]:
    """Mean, low and high of the values of independent runs ``(n,)``."""
    there, back = (np.log, np.exp) if log else (np.asarray, float)
    inner = there(values)
    mean = inner.mean()
    if len(inner) < MIN_SEEDS:
        return float(back(mean)), np.nan, np.nan
    half = half_width(inner)
    return float(back(mean)), float(back(mean - half)), float(back(mean + half))


def sentence(seeds, drawn: str = "Thin lines") -> str:
    """A caption's sentence about curves with these numbers of seeds; ``drawn`` says how seeds look."""
    most = max(seeds)
    if most == 1:
        return "One seed per curve: no difference here is distinguishable from seed noise."
    if most > MOST_LINES:
        return f"Lines are medians over up to {most:,} runs, bands hold 90 % of them."
    band = "bands are Student's 95 % intervals of that mean" if most >= MIN_SEEDS else "two seeds give no interval"
    return f"{drawn} are seeds, the thick line is their geometric mean; {band}."
