"""The best learning rate as a measurement: the vertex of a parabola of ln loss in log2 rate, with Fieller's interval, and whether it moves.

A parabola always fits three points, so four stable rates are needed. Runs that diverged are no points of it: they are the right edge.
Rates far from the best are left out, as the valley is not a parabola there. The noise is the residuals', from seeds and from the form.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from ditscale.errors import UserError
from ditscale.scaling.interval import LEVEL

LEAST_RATES = 4
REACH = 2.2                                                                    # octaves to each side of the best rate that count, or the four nearest rates
SAME = 0.5                                                                     # octaves: rates this near are the same
WORSE = 0.3                                                                    # ln loss of a run above the best mean, at a higher rate: diverged
TRANSFERS, SHIFTS, UNDECIDED = "TRANSFERS", "SHIFTS", "UNDECIDED"


@dataclass(frozen=True)
class Optimum:
    """The best rate of one model, in log2. ``low`` and ``high`` are NaN where the interval is unbounded, ``log2_rate`` where there is no vertex.

    Attributes:
        reason: why there is no usable vertex; "" if there is one.
        rates: distinct stable rates that the parabola goes through.
        edge: the lowest rate, in log2, at which a run diverged, or NaN.
        used: the lowest and highest rate of the parabola's points, in log2.
        coefficients: of ln loss = c0 + c1 v + c2 v^2, v in log2 rate minus ``center``.
    """

    log2_rate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = ""
    rates: int = 0
    edge: float = math.nan
    center: float = 0.0
    coefficients: tuple[float, float, float] | None = None
    used: tuple[float, float] = (math.nan, math.nan)

    @property
    def rate(self) -> float:
        return 2.0**self.log2_rate

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def loss(self, log2_rates) -> np.ndarray:
        """The parabola."""
        v = np.asarray(log2_rates, float) - self.center
        return np.exp(np.polyval(self.coefficients[::-1], v))


def optimum(rates, losses) -> Optimum:
    """The best rate.

    Args:
        rates, losses: (n,), one entry per run; a loss that is not finite is a run that diverged.

    Raises:
        UserError: a rate that is not above 0, or a loss that is zero or negative.
    """
    rates, losses = np.asarray(rates, float), np.asarray(losses, float)
    if not (rates > 0).all() or (losses <= 0).any():
        raise UserError("learning rates and losses must be above 0")
    at = np.log2(rates)
    means = {v: np.log(losses[at == v]).mean() for v in np.unique(at) if np.isfinite(losses[at == v]).all()}
    if not means:
        return Optimum(reason="every rate diverged", edge=float(at.min()) if len(at) else math.nan)
    best = min(means, key=lambda v: means[v])
    stable = {v for v in means if v <= best or np.log(losses[at == v]).max() <= means[best] + WORSE}
    edge = min((v for v in np.unique(at) if v > best and v not in stable), default=math.nan)
    nearest = sorted(stable, key=lambda v: abs(v - best))
    near = {v for v in nearest if abs(v - best) <= REACH} | set(nearest[:LEAST_RATES])
    used = np.array([v in near for v in at], bool)
    count = len(np.unique(at[used]))
    if best == min(stable) or (best == max(stable) and math.isnan(edge)):
        return Optimum(reason=f"the best rate is the {'lowest' if best == min(stable) else 'highest'} one tried", rates=count, edge=float(edge))
    if count < LEAST_RATES:
        return Optimum(reason=f"{count} stable rates near the best one; {LEAST_RATES} are needed", rates=count, edge=float(edge))
    return _vertex(at[used], np.log(losses[used]), count, float(edge))


def _vertex(at: np.ndarray, values: np.ndarray, count: int, edge: float) -> Optimum:
    """The vertex by least squares and its interval by Fieller: where the slope of the parabola can be zero."""
    center = float(at.mean())
    v = at - center
    design = np.stack([np.ones_like(v), v, v**2], axis=1)
    found, *_ = np.linalg.lstsq(design, values, rcond=None)
    _, b, c = found
    facts: dict[str, Any] = {"rates": count, "edge": edge, "center": center, "coefficients": tuple(map(float, found)),
                             "used": (float(at.min()), float(at.max()))}
    if c <= 0 or not v.min() <= -b / (2 * c) <= v.max():
        beside = f", which is next to a rate that diverged, {2**edge:.3g}" if math.isfinite(edge) else ""
        return Optimum(reason=f"the parabola has no vertex near the best rate{beside}; add rates between", **facts)
    vertex, freedom = -b / (2 * c), len(v) - 3
    low = high = math.nan
    if freedom > 0:
        covariance = np.linalg.inv(design.T @ design) * ((values - design @ found) ** 2).sum() / freedom
        t2 = special.stdtrit(freedom, (1 + LEVEL) / 2) ** 2
        # (b + 2 c x)^2 <= t^2 Var(b + 2 c x)
        quadratic = np.array([4 * c * c - 4 * t2 * covariance[2, 2], 4 * b * c - 4 * t2 * covariance[1, 2], b * b - t2 * covariance[1, 1]])
        discriminant = quadratic[1] ** 2 - 4 * quadratic[0] * quadratic[2]
        if quadratic[0] > 0 and discriminant >= 0:
            low, high = (float((-quadratic[1] + sign * math.sqrt(discriminant)) / (2 * quadratic[0]) + center) for sign in (-1, 1))
    return Optimum(float(vertex + center), low, high, **facts)


@dataclass(frozen=True)
class Transfer:
    """Whether the best rate of the smallest model is that of the others.

    ``shifts`` are octaves from the smallest model's, with intervals (Zou and Donner's MOVER), by model.
    """

    verdict: str
    reason: str
    shifts: dict[str, tuple[float, float, float]]


def transfer(optima: dict[str, Optimum]) -> Transfer:
    """The verdict over models, smallest first."""
    first, *others = optima
    shifts = {name: _shift(optima[first], optima[name]) for name in others}
    missing = [f"{name}: {one.reason}" for name, one in optima.items() if one.reason]
    moved = [name for name, (_, low, high) in shifts.items() if low > SAME or high < -SAME]
    if moved:
        value, low, high = shifts[moved[-1]]
        return Transfer(SHIFTS, f"from {first} to {moved[-1]} the best rate moves by {value:+.2f} octaves ({low:+.2f} to {high:+.2f})", shifts)
    if not shifts or missing:
        return Transfer(UNDECIDED, "; ".join(missing) or "one model has no other to transfer to", shifts)
    worst = max(shifts, key=lambda name: max(abs(shifts[name][1]), abs(shifts[name][2])) if math.isfinite(shifts[name][1]) else math.inf)
    value, low, high = shifts[worst]
    if low >= -SAME and high <= SAME:
        return Transfer(TRANSFERS, f"from {first} on it moves by at most {SAME:g} octaves ({worst}: {value:+.2f}, {low:+.2f} to {high:+.2f})", shifts)
    bounds = f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) else "no interval"
    return Transfer(UNDECIDED, f"from {first} to {worst} it moves by {value:+.2f} octaves ({bounds}), which may be more or less than {SAME:g}", shifts)


def _shift(first: Optimum, other: Optimum) -> tuple[float, float, float]:
    shift = other.log2_rate - first.log2_rate
    return (shift, shift - math.hypot(other.log2_rate - other.low, first.high - first.log2_rate),
            shift + math.hypot(other.high - other.log2_rate, first.log2_rate - first.low))


@dataclass(frozen=True)
class RateLaw:
    """best rate proportional to size^exponent, with a 95 % interval of the exponent from the vertices' own intervals."""

    exponent: float
    low: float
    high: float


def rate_law(optima: dict[str, Optimum], sizes: dict[str, float]) -> RateLaw | None:
    """A law of the best rate over any size (width, forward FLOPs, batch) by weighted least squares; None with fewer than three sizes that have an
    interval."""
    known = {name: one for name, one in optima.items() if one.has_interval}
    if len({sizes[name] for name in known}) < 3:
        return None
    x = np.log2([sizes[name] for name in known])
    y, spread = np.array([one.log2_rate for one in known.values()]), np.array([(one.high - one.low) / 2 for one in known.values()])
    weights = 1 / spread**2                                                    # half widths at 95 %: so is the exponent's
    center = (weights * x).sum() / weights.sum()
    total = (weights * (x - center) ** 2).sum()
    exponent, half = float((weights * (x - center) * y).sum() / total), float(total**-0.5)
    return RateLaw(exponent, exponent - half, exponent + half)
