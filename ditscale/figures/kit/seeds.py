"""Draws runs that differ only in seed as one curve: their mean, and its interval if there are enough seeds."""

import numpy as np
import pandas as pd

from ditscale.scaling.differences import MIN_SEEDS
from ditscale.scaling.interval import half_width

COLUMNS = ["x", "mean", "low", "high", "seeds"]


def over_seeds(rows: pd.DataFrame, x: str, y: str = "score", log: bool = True) -> pd.DataFrame:
    """The mean over runs at each x that all of them share, sorted by x, with columns ``COLUMNS``.

    Args:
        rows: of runs that differ only in seed; column ``run_id`` names them.
        log: geometric means and intervals of the logarithms; y must be positive.

    Returns:
        ``low`` and ``high`` bound Student's 95 % interval of the mean; NaN with fewer than three seeds.
    """
    runs = rows["run_id"].nunique()
    shared = [(at, own[y].to_numpy(float)) for at, own in rows.groupby(x) if own["run_id"].nunique() == runs]
    return pd.DataFrame([(at, *mean_and_interval(values, log), runs) for at, values in shared], columns=COLUMNS)


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
    band = "bands are Student's 95 % intervals of that mean" if most >= MIN_SEEDS else "two seeds give no interval"
    return f"{drawn} are seeds, the thick line is their geometric mean; {band}."
