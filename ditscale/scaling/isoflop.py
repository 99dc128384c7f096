"""Compute-optimal size and data from isoFLOP studies: approach 2 and the surface side by side, and what a choice wastes.

Approach 2 (Hoffmann et al. 2203.15556, 3.2): at each budget C = k N D a parabola of the score in ln N; its vertex is N*; a
line through ln N* against ln C. The parabola is not the true curve, so its vertex is off wherever alpha and beta differ, on
noise-free data too, and the line carries the offset to any C (2603.22339): print it beside ``surface``, never alone. Grids of
2 to 4 times to both sides of the optimum keep the bias small. ``akima`` follows the points instead (Porian et al. 2406.19146).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from ditscale.errors import UserError
from ditscale.scaling.fitting import fit, refit
from ditscale.scaling.intervals import Interval, percentiles, times_drawn
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.result import Fit
from ditscale.scaling.status import MIN_RUNS, Status

MIN_SIZES = 4              # a parabola through three points could not be wrong
SAME_BUDGET = 0.05
AKIMA_STEPS = 25           # a gap between sizes, as 2406.19146


@dataclass(frozen=True)
class Valley:
    """One budget: the best size found, and whether it lies inside the grid of sizes (else it is a guess)."""

    compute: float
    size: float
    score: float
    centred: bool
    sizes: int


@dataclass(frozen=True)
class OptimalLine:
    """``N* = coefficient * C^exponent`` through the valleys, and D* = C / (k N*)."""

    coefficient: float
    exponent: float
    k: float
    valleys: tuple[Valley, ...]

    def size(self, compute) -> np.ndarray:
        return self.coefficient * np.asarray(compute, dtype=np.float64) ** self.exponent

    def data(self, compute) -> np.ndarray:
        return np.asarray(compute, dtype=np.float64) / (self.k * self.size(compute))

    @property
    def off_centre(self) -> tuple[float, ...]:
        """Budgets whose optimum is not inside the grid; they are left out of the line."""
        return tuple(v.compute for v in self.valleys if not v.centred)


@dataclass(frozen=True)
class Comparison:
    """Approach 2 (None where too few budgets have a centred optimum) and the surface at one compute.

    ``bias`` is approach 2's N* over the surface's, less one. The intervals are percentiles over resampled runs.
    """

    compute: float
    parabola: OptimalLine | None
    surface: Fit
    size: float
    data: float
    bias: float
    size_interval: Interval | None = None
    data_interval: Interval | None = None


def valley_of(sizes, scores, compute: float, method: str = "parabola") -> Valley:
    """The optimum of one budget. Scores as they are, sizes in logarithms; ``(n,)`` each.

    Raises:
        UserError: fewer than 4 sizes, or a method that is none.
    """
    sizes, scores = np.asarray(sizes, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    distinct, of_point = np.unique(sizes, return_inverse=True)
    if len(distinct) < MIN_SIZES:
        raise UserError(f"the budget {compute:.3g} has {len(distinct)} sizes; {MIN_SIZES} are needed for an optimum that could be wrong")
    log_n = np.log(sizes)
    if method == "parabola":
        middle = log_n.mean()
        c2, c1, c0 = np.polyfit(log_n - middle, scores, 2)
        if c2 <= 0:
            best = int(np.argmin(scores))
            return Valley(compute, float(sizes[best]), float(scores[best]), False, len(distinct))
        at, score = middle - 0.5 * c1 / c2, c0 - 0.25 * c1**2 / c2
    elif method == "akima":
        means = np.bincount(of_point, scores) / np.bincount(of_point)
        grid = np.linspace(log_n.min(), log_n.max(), AKIMA_STEPS * (len(distinct) - 1) + 1)
        curve = np.exp(Akima1DInterpolator(np.log(distinct), np.log(means))(grid))
        at, score = grid[np.argmin(curve)], curve.min()
    else:
        raise UserError(f"method '{method}' is not one of parabola, akima")
    centred = log_n.min() < at < log_n.max()
    return Valley(compute, float(np.exp(at)), float(score), bool(centred), len(distinct))


def approach2(size, data, score, *, k: float = 6.0, method: str = "parabola") -> OptimalLine | None:
    """The line of optimal sizes over budgets; None where fewer than two budgets have their optimum inside the grid.

    Args:
        size, data, score: ``(n,)`` each; k: of C = k N D. Points within 5 % of one C are one budget.
    """
    size, data, score = (np.asarray(v, dtype=np.float64) for v in (size, data, score))
    compute = k * size * data
    valleys = []
    for budget, at in budgets(compute):
        if len(np.unique(size[at])) >= MIN_SIZES:
            valleys.append(valley_of(size[at], score[at], budget, method))
    inside = [v for v in valleys if v.centred]
    if len(inside) < 2:
        return None
    logs = np.log([v.compute for v in inside])
    exponent, height = np.polyfit(logs - logs.mean(), np.log([v.size for v in inside]), 1)
    return OptimalLine(float(math.exp(height - exponent * logs.mean())), float(exponent), k, tuple(valleys))


def budgets(compute: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Groups of points whose compute is equal within 5 %: its geometric mean, and the points' places."""
    order = np.argsort(compute)
    cuts = np.flatnonzero(np.diff(np.log(compute[order])) > SAME_BUDGET) + 1
    return [(float(np.exp(np.log(compute[at]).mean())), at) for at in np.split(order, cuts)]


def compare_approaches(size, data, score, compute: float, groups=None, *, k: float = 6.0, resamples: int = 1000, seed: int = 0,
                       **options) -> Comparison:
    """Both approaches' optimum at ``compute``, with the surface's intervals where three runs or more were resampled.

    Args:
        size, data, score, groups: the points, ``(n,)`` each; options: of ``fitting.fit``, for the surface.
    """
    surface = fit("chinchilla", {"N": size, "D": data}, score, groups, **options)
    line = approach2(size, data, score, k=k)
    if surface.law is None:
        return Comparison(compute, line, surface, math.nan, math.nan, math.nan)
    best, amount = float(surface.law.optimal_size(compute, k)), float(surface.law.optimal_data(compute, k))
    bias = float(line.size(compute)) / best - 1.0 if line else math.nan
    intervals = (None, None)
    if surface.n_runs >= MIN_RUNS and resamples and surface.status is not Status.NO_OPTIMUM:
        sizes = resampled_optima(surface, compute, k, resamples, seed)
        intervals = percentiles(sizes), percentiles(compute / (k * sizes))
    return Comparison(compute, line, surface, best, amount, bias, *intervals)


def resampled_optima(surface: Fit, compute: float, k: float, resamples: int, seed: int) -> np.ndarray:
    """N* of each resample of runs at ``compute``, ``(resamples,)``; those without an optimum are left out."""
    return np.array([float(law.optimal_size(compute, k)) for law in resampled_surfaces(surface, resamples, seed)])


def resampled_surfaces(surface: Fit, resamples: int, seed: int) -> list[Chinchilla]:
    """The surface of each resample of runs; those without an optimum are left out."""
    points = surface.points
    _, of_point = np.unique(points.groups, return_inverse=True)
    drawn = times_drawn(surface.n_runs, resamples, seed)[:, of_point] * points.weights
    laws = [Chinchilla.from_theta(t) for t in refit(points, surface.search.theta, surface.loss, drawn).theta]
    return [law for law in laws if law.alpha > 0 and law.beta > 0]


def deadweight_compute(law: Chinchilla, size, data, k: float = 6.0) -> np.ndarray:
    """FLOPs wasted by training ``size`` on ``data``: k N D less the compute that reaches the same score optimally."""
    size, data = np.asarray(size, dtype=np.float64), np.asarray(data, dtype=np.float64)
    return k * size * data - law.compute_for(law.evaluate({"N": size, "D": data}), k)
