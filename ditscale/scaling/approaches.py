"""Compute-optimal size and data from isoFLOP studies by approach 2 and by the surface, and the compute that a choice wastes.

Approach 2 (Hoffmann et al. 2203.15556, 3.2): at each budget a parabola of the score in ln N; its vertex is N*; a line through ln N*
against ln C. The parabola is not the true curve, so its vertex is off if alpha and beta differ, even on noise-free data, and the
line extends the offset to any C (2603.22339): always print it together with ``surface``. Grids of 2 to 4 times to both sides of the
optimum keep the bias small. ``akima`` goes through the points instead (Porian et al. 2406.19146): its bias depends only on the spacing
between sizes, but it follows noise. docs/laws.md has the measured biases of both. Budgets: see ``budgets``.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.interpolate import Akima1DInterpolator

from ditscale.errors import UserError, count
from ditscale.scaling import inputs
from ditscale.scaling.bootstrap import times_drawn
from ditscale.scaling.budgets import WIDTH, Dropped, find_budgets
from ditscale.scaling.fitting import fit, refit
from ditscale.scaling.interval import LEVEL, Interval, percentiles
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.result import Fit
from ditscale.scaling.spending import Spending, fit_spending
from ditscale.scaling.status import MIN_RUNS, Status

MIN_SIZES = 4              # a parabola always fits three points
METHODS = ("parabola", "akima")


@dataclass(frozen=True)
class Valley:
    """One budget: the best size found, and whether it lies inside the grid of sizes (if not, it is a guess).

    ``spread`` is the largest compute of its points over the smallest.
    """

    compute: float
    size: float
    score: float
    centered: bool
    sizes: int
    spread: float = 1.0


@dataclass(frozen=True)
class OptimalLine:
    """``N* = coefficient * C^exponent`` through the valleys that lie inside their grids; NaN if there are fewer than two.

    ``dropped``: the points without a curve, for example those of budgets with fewer than four sizes.
    """

    coefficient: float
    exponent: float
    spending: Spending
    valleys: tuple[Valley, ...]
    method: str = "parabola"
    dropped: tuple[Dropped, ...] = ()

    @property
    def ok(self) -> bool:
        return math.isfinite(self.exponent)

    @property
    def k(self) -> float:
        return self.spending.k

    def size(self, compute) -> np.ndarray:
        return self.coefficient * np.asarray(compute, dtype=np.float64) ** self.exponent

    def data(self, compute) -> np.ndarray:
        return self.spending.data(self.size(compute), compute)

    @property
    def off_center(self) -> tuple[float, ...]:
        """Budgets with their optimum outside the grid; the line leaves them out."""
        return tuple(v.compute for v in self.valleys if not v.centered)


@dataclass(frozen=True)
class Approaches:
    """Approach 2 by parabolas and by Akima's curves, and the surface, at one compute.

    ``bias`` is the parabolas' N* over the surface's, minus one; ``akima_bias`` is Akima's. The intervals are percentiles over resampled runs.
    """

    compute: float
    parabola: OptimalLine
    akima: OptimalLine
    surface: Fit
    size: float = math.nan
    data: float = math.nan
    bias: float = math.nan
    akima_bias: float = math.nan
    size_interval: Interval | None = None
    data_interval: Interval | None = None


def valley_of(sizes, scores, compute: float, method: str = "parabola", spread: float = 1.0) -> Valley:
    """The optimum of one budget. Scores are not transformed, sizes are used in logarithms; ``(n,)`` each.

    Raises:
        UserError: fewer than 4 sizes, or an unknown method.
    """
    sizes, scores = inputs.numbers("size", sizes), inputs.numbers("score", scores)
    distinct = len(np.unique(sizes))
    if distinct < MIN_SIZES:
        raise UserError(f"the budget {compute:.3g} has {count(distinct, 'size')}; finding an optimum needs {MIN_SIZES}")
    _require_method(method)
    log_n = np.log(sizes)
    if method == "parabola":
        middle = log_n.mean()
        c2, c1, c0 = np.polyfit(log_n - middle, scores, 2)
        if c2 <= 0:
            best = int(np.argmin(scores))
            return Valley(compute, float(sizes[best]), float(scores[best]), False, distinct, spread)
        at, score = middle - 0.5 * c1 / c2, c0 - 0.25 * c1**2 / c2
    else:
        curve = akima_curve(sizes, scores)
        ends = curve.derivative().roots(extrapolate=False)
        grid = np.concatenate([curve.x, ends[np.isfinite(ends)]])
        at, score = grid[np.argmin(curve(grid))], float(np.exp(curve(grid).min()))
    centered = bool(log_n.min() < at < log_n.max())
    return Valley(compute, float(np.exp(at)), float(score), centered, distinct, spread)


def akima_curve(sizes, scores) -> Akima1DInterpolator:
    """ln score against ln size through the geometric mean of each size's scores."""
    distinct, of_point = np.unique(np.asarray(sizes, np.float64), return_inverse=True)
    means = np.bincount(of_point, np.log(np.asarray(scores, np.float64))) / np.bincount(of_point)
    return Akima1DInterpolator(np.log(distinct), means)


def vertex_interval(sizes, scores) -> Interval | None:
    """The 95 % interval of the size at the vertex of a least-squares parabola of the scores in ln size, ``(n,)`` each: Fieller's.

    With y = c0 + c1 u + c2 u^2 the vertex is at u = -c1 / (2 c2). A value u belongs to the interval if c1 + 2 c2 u, which is
    normal, does not differ from 0 by Student's t with n - 3 degrees of freedom. This holds for a ratio without assuming small errors.

    None if there are no more points than coefficients, or the curvature does not differ from 0: the vertex could then be anywhere.
    """
    log_n, scores = np.log(np.asarray(sizes, float)), np.asarray(scores, float)
    freedom = len(log_n) - 3
    if freedom < 1:
        return None
    middle = log_n.mean()
    design = np.vander(log_n - middle, 3)
    coefficients, *_ = np.linalg.lstsq(design, scores, rcond=None)
    residuals = scores - design @ coefficients
    covariance = np.linalg.pinv(design.T @ design) * (residuals @ residuals) / freedom
    t2 = special.stdtrit(freedom, 0.5 + LEVEL / 2) ** 2
    c2, c1, _ = coefficients
    # (c1 + 2 c2 u)^2 <= t^2 var(c1 + 2 c2 u), a quadratic in u
    square = 4.0 * (c2**2 - t2 * covariance[0, 0])
    linear = 4.0 * (c1 * c2 - t2 * covariance[0, 1])
    constant = c1**2 - t2 * covariance[1, 1]
    if c2 <= 0 or square <= 0:
        return None
    half = math.sqrt(max(linear**2 - 4.0 * square * constant, 0.0))
    return Interval(*(math.exp(middle + (-linear + sign * half) / (2.0 * square)) for sign in (-1, 1)))


def approach2(size, data, score, *, k: float = 6.0, method: str = "parabola", compute=None, budget=None, budgets=None,
              width: float = WIDTH) -> OptimalLine:
    """The line of optimal sizes over budgets; not ``ok`` if fewer than two budgets have their optimum inside the grid.

    Args:
        size, data, score: ``(n,)`` each.
        compute: the training FLOPs of each point, ``(n,)``; default k N D.
        budget, budgets, width: which points are one budget; see ``find_budgets``.
        method: "parabola" or "akima".

    Raises:
        UserError: an unknown method, arrays of different lengths, a size, amount or score that is not positive, or as ``find_budgets``.
    """
    _require_method(method)
    inputs.require_one_table(size=size, data=data, score=score, compute=compute, budget=budget)
    size, data, score = (np.atleast_1d(inputs.numbers(n, v)) for n, v in (("size", size), ("data", data), ("score", score)))
    shapes = {size.shape, data.shape, score.shape, *([] if compute is None else [np.shape(compute)])}
    if len(shapes) > 1:
        raise UserError(f"size, data, score and compute must be of equal length; got {', '.join(map(str, shapes))}")
    for name, values in (("size", size), ("data", data), ("score", score)):
        inputs.require_positive(name, values)
    found, dropped = find_budgets(Spending(k).compute(size, data) if compute is None else compute, budget, budgets, width)
    rule = Spending(k) if compute is None else fit_spending(size, data, compute)
    valleys = []
    for own in found:
        sizes = len(np.unique(size[own.at]))
        if sizes >= MIN_SIZES:
            valleys.append(valley_of(size[own.at], score[own.at], own.compute, method, own.spread))
        else:
            dropped.append(Dropped(own.compute, len(own.at), sizes, f"fewer than {MIN_SIZES} sizes"))
    inside = [v for v in valleys if v.centered]
    if len(inside) < 2:
        return OptimalLine(math.nan, math.nan, rule, tuple(valleys), method, tuple(dropped))
    logs = np.log([v.compute for v in inside])
    exponent, height = np.polyfit(logs - logs.mean(), np.log([v.size for v in inside]), 1)
    return OptimalLine(float(math.exp(height - exponent * logs.mean())), float(exponent), rule, tuple(valleys), method, tuple(dropped))


def compare_approaches(size, data, score, compute: float, groups=None, *, k: float = 6.0, own_compute=None, budget=None, budgets=None,
                       width: float = WIDTH, resamples: int = 1000, seed: int = 0, **options) -> Approaches:
    """The optimum at ``compute`` by all approaches, with the surface's intervals if three runs or more were resampled.

    Args:
        size, data, score, groups: the points, ``(n,)`` each; own_compute: their training FLOPs; default k N D.
        budget, budgets, width: as in ``find_budgets``; options: of ``fitting.fit``, for the surface.
    """
    surface = fit("chinchilla", {"N": size, "D": data}, score, groups, **options)
    lines = [approach2(size, data, score, k=k, method=method, compute=own_compute, budget=budget, budgets=budgets, width=width)
             for method in METHODS]
    rule = lines[0].spending
    if not isinstance(surface.law, Chinchilla) or not rule.usable:
        return Approaches(compute, lines[0], lines[1], surface)
    best = float(rule.optimal_size(surface.law, compute))
    biases = [float(line.size(compute)) / best - 1.0 for line in lines]
    size_interval = data_interval = None
    if surface.n_runs >= MIN_RUNS and resamples and surface.status is not Status.NO_OPTIMUM:
        sizes = resampled_optima(surface, compute, rule, resamples, seed)
        size_interval, data_interval = percentiles(sizes), percentiles(rule.data(sizes, compute))
    return Approaches(compute, lines[0], lines[1], surface, size=best, data=float(rule.data(best, compute)), bias=biases[0], akima_bias=biases[1],
                      size_interval=size_interval, data_interval=data_interval)


def resampled_optima(surface: Fit, compute: float, rule: Spending | float, resamples: int, seed: int) -> np.ndarray:
    """N* of each resample of runs at ``compute``, ``(resamples,)``; those without an optimum are left out. ``rule``: a rule, or the k of k N D."""
    rule = rule if isinstance(rule, Spending) else Spending(rule)
    return np.array([float(rule.optimal_size(law, compute)) for law in resampled_surfaces(surface, resamples, seed)])


def _require_method(method: str) -> None:
    if method not in METHODS:
        raise UserError(f"method '{method}' is not one of {', '.join(METHODS)}")


def resampled_surfaces(surface: Fit, resamples: int, seed: int) -> list[Chinchilla]:
    """The surface of each resample of runs; those without an optimum are left out."""
    points = surface.points
    _, of_point = np.unique(points.groups, return_inverse=True)
    drawn = times_drawn(surface.n_runs, resamples, seed)[:, of_point] * points.weights
    laws = [Chinchilla.from_theta(t) for t in refit(points, surface.search.theta, surface.loss, drawn).theta]
    return [law for law in laws if law.alpha > 0 and law.beta > 0]


def deadweight_compute(law: Chinchilla, size, data, k: float = 6.0) -> np.ndarray:
    """FLOPs wasted by training ``size`` on ``data``: k N D minus the compute that reaches the same score optimally."""
    size, data = np.asarray(size, dtype=np.float64), np.asarray(data, dtype=np.float64)
    return k * size * data - law.compute_for(law.evaluate({"N": size, "D": data}), k)
