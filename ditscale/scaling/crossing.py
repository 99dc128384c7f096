"""Where one score curve goes below another for good, as in DiT's "XL/4 is outperformed by XL/2 after roughly 10^10 Gflops".

Curves are straight between their points in logarithms of cost and score, and undefined outside them: a crossing is reported only
if both were measured on both sides of it. It lies between two measurements; their distance is its uncertainty.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np


class Order(Enum):
    """How curve b compares with curve a over the costs that both span; lower scores are better. The value is text for users."""

    OVERTAKES = "goes below it for good"
    BELOW = "is below it throughout"
    ABOVE = "is not below it at the largest cost that both reach"
    NO_SHARED_COST = "shares no range of cost with it"


@dataclass(frozen=True)
class Crossing:
    """Curve b against curve a.

    Attributes:
        order: one of the four.
        shared: the costs that both span, (low, high), or None.
        cost, score: where b goes below a for the last time; None unless b overtakes a.
        bracket: the nearest measured costs, of either curve, below and above the crossing.
        crossings: sign changes of the difference over the shared range; more than one means that noise decides.
    """

    order: Order
    shared: tuple[float, float] | None = None
    cost: float | None = None
    score: float | None = None
    bracket: tuple[float, float] | None = None
    crossings: int = 0


def overtaking(cost_a, score_a, cost_b, score_b) -> Crossing:
    """Where curve b overtakes curve a.

    Args:
        cost_a, score_a: a's points, ``(n,)`` each, positive; any order, one score per cost. ``cost_b``, ``score_b``: b's.

    Raises:
        ValueError: a value is not positive, or a curve has a cost twice.
    """
    (x_a, y_a), (x_b, y_b) = _curve(cost_a, score_a), _curve(cost_b, score_b)
    low, high = max(x_a[0], x_b[0]), min(x_a[-1], x_b[-1])
    if low >= high:
        return Crossing(Order.NO_SHARED_COST)
    knots = np.unique(np.concatenate([x_a, x_b]))
    knots = knots[(knots >= low) & (knots <= high)]
    gap = np.interp(knots, x_b, y_b) - np.interp(knots, x_a, y_a)       # below 0: b is better
    shared = float(np.exp(low)), float(np.exp(high))
    changes = np.flatnonzero((gap[:-1] < 0) != (gap[1:] < 0))
    if gap[-1] >= 0 or not changes.size:
        return Crossing(Order.BELOW if gap[-1] < 0 else Order.ABOVE, shared, crossings=len(changes))
    left, right = knots[changes[-1]:changes[-1] + 2]
    before, after = gap[changes[-1]:changes[-1] + 2]
    at = left + (right - left) * before / (before - after)
    return Crossing(Order.OVERTAKES, shared, float(np.exp(at)), float(np.exp(np.interp(at, x_a, y_a))),
                    (float(np.exp(left)), float(np.exp(right))), len(changes))


def _curve(cost, score) -> tuple[np.ndarray, np.ndarray]:
    """The logarithms of a curve's points, by cost."""
    cost, score = np.asarray(cost, np.float64), np.asarray(score, np.float64)
    if cost.ndim != 1 or cost.shape != score.shape or not cost.size:
        raise ValueError(f"a curve is two flat arrays of equal length, not {cost.shape} and {score.shape}")
    if not (np.isfinite(cost) & np.isfinite(score) & (cost > 0) & (score > 0)).all():
        raise ValueError("a curve has a value that is not positive and finite")
    order = np.argsort(cost)
    if (np.diff(cost[order]) == 0).any():
        raise ValueError(f"a curve has the cost {cost[order][:-1][np.diff(cost[order]) == 0][0]:g} twice")
    return np.log(cost[order]), np.log(score[order])
