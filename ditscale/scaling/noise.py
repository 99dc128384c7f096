"""Seed noise of scores, pooled over cells with few seeds each. A cell is one model, variant and number of images.

The spread of ln score is nearly the same in all cells, so together they give the estimate that three seeds
of one cell cannot. Cells that are checkpoints of the same runs share these runs' errors: they add to the estimate, but not
to its degrees of freedom.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ditscale.errors import count
from ditscale.scaling.interval import LEVEL, Interval
from ditscale.scaling.outliers import Outliers, of_points
from ditscale.scaling.status import Status, as_points, first_bad


@dataclass(frozen=True)
class Noise:
    """``sigma`` is the standard deviation of ln score among seeds: 0.015 is 1.5 %. NaN, with 0 ``freedom``, without repetitions.

    ``luck_share`` is the share of the variance that all checkpoints of a run have in common; the rest varies between
    them. NaN if no two cells share runs. ``outliers`` are runs far from their siblings; they are included, and ``without`` is the
    noise without them, or None.
    """

    status: Status
    detail: str
    sigma: float
    freedom: int
    cells: int                                                                 # with two points or more
    luck_share: float = math.nan
    outliers: Outliers = Outliers()
    without: "Noise | None" = None

    @property
    def variation(self) -> float:
        """The coefficient of variation of the score, assuming a log-normal distribution."""
        return math.sqrt(math.expm1(self.sigma**2))

    @property
    def interval(self) -> Interval | None:
        """95 % interval of ``sigma``, by chi-square; None without an estimate."""
        if not self.status.ok:
            return None
        low, high = 2 * special.gammaincinv(self.freedom / 2, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])   # chi-square's quantiles
        return Interval(self.sigma * math.sqrt(self.freedom / low), self.sigma * math.sqrt(self.freedom / high))

    @property
    def words(self) -> str:
        """The result of all runs."""
        if not self.status.ok:
            return self.status.because(self.detail)
        return f"seed noise {self.variation:.1%} of the score, from {count(self.cells, 'cell')} with {count(self.freedom, 'degree')} of freedom"

    @property
    def sentence(self) -> str:
        """``words``; if there are outliers, also their names and the noise without them."""
        return self.outliers.add_to(self.words, self.without)

    def card(self) -> dict:
        """Ready for JSON: missing numbers are None."""
        bounds, known = self.interval, self.status.ok
        return {"status": self.status.name, "sentence": self.sentence, "sigma_of_ln_score": self.sigma if known else None,
                "low": bounds.low if bounds else None, "high": bounds.high if bounds else None,
                "coefficient_of_variation": self.variation if known else None, "degrees_of_freedom": self.freedom, "cells": self.cells,
                "share_common_to_a_run": self.luck_share if math.isfinite(self.luck_share) else None,
                "outliers": self.outliers.card(), "without_outliers": self.without.card() if self.without else None}


def pooled_noise(score, cells, runs=None) -> Noise:
    """The noise of ln score around its cell's mean.

    Args:
        score: positive, ``(n,)``. cells: the cell of each point, ``(n,)``.
        runs: the run of each point, ``(n,)``; by default every point has its own run.
    """
    score, _, cells = as_points(score, score, cells)
    runs = (np.arange(len(score)) if runs is None else np.asarray(runs)).astype(str)
    bad = first_bad(np.ones_like(score), score, runs)
    if bad:
        return Noise(Status.BAD_DATA, bad, math.nan, 0, 0)
    _, cell, counts = np.unique(cells, return_inverse=True, return_counts=True)
    kept = counts[cell] > 1
    if not kept.any():
        return Noise(Status.ONE_SEED, count(len(counts), 'cell'), math.nan, 0, 0)
    _, cell, counts = np.unique(cell[kept], return_inverse=True, return_counts=True)
    _, run = np.unique(runs[kept], return_inverse=True)
    off = np.log(score[kept])
    off -= (np.bincount(cell, off) / counts)[cell]
    variance = float(off @ off / (counts - 1).sum())
    freedom, family = _freedom(cell, run)
    if not freedom:
        return Noise(Status.ONE_SEED, "the points of each cell are from one run", math.nan, 0, 0)
    far = of_points(score, cells, runs, lambda i: f"in {cells[i]}")
    others = ~np.isin(runs, far.runs)
    without = pooled_noise(score[others], cells[others], runs[others]) if far.found else None
    return Noise(Status.CONVERGED, "", math.sqrt(variance), freedom, len(counts), _luck_share(off, run, family, variance), far, without)


def _freedom(cell: np.ndarray, run: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of runs minus the number of families, and the family of each run: runs that share a cell are one family."""
    runs, nodes = run.max() + 1, run.max() + cell.max() + 2
    families, label = connected_components(coo_matrix((np.ones(len(run)), (run, runs + cell)), (nodes, nodes)), directed=False)
    return int(runs - families), label[:runs]


def _luck_share(off: np.ndarray, run: np.ndarray, family: np.ndarray, variance: float) -> float:
    """The correlation of a run's deviations in two of its cells, over all pairs of cells; 1 if they are equal."""
    points, size = np.bincount(run), np.bincount(family)[family]
    pairs = points * (points - 1) * (size - 1) / size                          # a family's deviations sum to zero
    if not pairs.sum() or not variance:
        return math.nan
    products = np.bincount(run, off) ** 2 - np.bincount(run, off**2)
    return float(np.clip(products.sum() / pairs.sum() / variance, 0.0, 1.0))
