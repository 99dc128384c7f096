"""Groups points of equal training compute: by given budgets, or by clustering.

Clustering is complete linkage in ln C: the two neighboring clusters with the narrowest union are joined as long as the union is no
wider than ``width``. Joining by the gap between neighbors would chain: points 4 % apart would make one budget of any width.
"""

import math
from dataclasses import dataclass

import numpy as np

from ditscale.errors import UserError
from ditscale.scaling import inputs

WIDTH = 0.05               # the largest C of a budget over its smallest, minus one
NEAR_STATED = 0.10         # a point is assigned to a stated budget up to this relative distance


@dataclass(frozen=True)
class Budget:
    """Points of one budget: their indices, the compute (the stated one, or the geometric mean), and their largest C over the smallest."""

    compute: float
    at: np.ndarray
    spread: float


@dataclass(frozen=True)
class Dropped:
    """Points without a curve, and why."""

    compute: float
    points: int
    sizes: int
    why: str


def find_budgets(compute, budget=None, budgets=None, width: float = WIDTH) -> tuple[list[Budget], list[Dropped]]:
    """The budgets in ``compute`` ``(n,)``, lowest first, and the points in none.

    Args:
        budget: the stated budget of each point, ``(n,)``, NaN if it has none. budgets: or a list of budgets: a point goes to the nearest
            within 10 %. Without either, budgets are found by clustering.
        width: for clusters, the largest C over the smallest minus one.

    Raises:
        UserError: a compute or a budget is not positive, ``width`` is not, or both ``budget`` and ``budgets`` are given.
    """
    compute = inputs.numbers("compute", compute)
    inputs.require_positive("compute", compute)
    if not 0 < width < math.inf:
        raise UserError(f"width {width} must be above 0: a budget's largest compute over its smallest, minus one, at most")
    if budget is not None and budgets is not None:
        raise UserError("give the budget of each point or the list of budgets, not both")
    if budget is None and budgets is None:
        return [_budget(compute, at) for at in _clusters(compute, width)], []
    if budgets is None:
        of_point, why = inputs.numbers("budget", budget), "in no stated budget"
        if of_point.shape != compute.shape:
            raise UserError(f"budget must be as long as the points, {len(compute)}; got {of_point.shape}")
    else:
        stated = np.unique(inputs.numbers("budgets", budgets))
        if not stated.size:
            raise UserError("budgets is an empty list; leave it out to find budgets by clustering")
        of_point, why = _nearest(compute, stated), f"more than {100 * NEAR_STATED:g} % from every stated budget"
    inside = ~np.isnan(of_point)
    inputs.require_positive("budget", of_point[inside])
    found = [_budget(compute, np.flatnonzero(of_point == value), float(value)) for value in np.unique(of_point[inside])]
    outside = compute[~inside]
    return found, [Dropped(float(np.exp(np.log(outside).mean())), len(outside), 0, why)] if len(outside) else []


def _clusters(compute: np.ndarray, width: float) -> list[np.ndarray]:
    """The indices of each cluster's points, lowest compute first."""
    low = np.unique(compute)
    high, limit = low.copy(), 1.0 + width * (1.0 + 1e-9)
    while len(low) > 1:
        unions = high[1:] / low[:-1]
        narrowest = int(np.argmin(unions))
        if unions[narrowest] > limit:
            break
        high[narrowest] = high[narrowest + 1]
        low, high = np.delete(low, narrowest + 1), np.delete(high, narrowest + 1)
    return [np.flatnonzero((compute >= least) & (compute <= most)) for least, most in zip(low, high)]


def _nearest(compute: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """The stated budget nearest to each point in ratio; NaN if none is within ``NEAR_STATED``."""
    inputs.require_positive("budget", stated)
    off = np.abs(np.log(compute[:, None] / stated))
    nearest = off.argmin(axis=1)
    return np.where(off.min(axis=1) <= math.log(1.0 + NEAR_STATED) + 1e-9, stated[nearest], np.nan)


def _budget(compute: np.ndarray, at: np.ndarray, stated: float | None = None) -> Budget:
    own = compute[at]
    return Budget(float(np.exp(np.log(own).mean())) if stated is None else stated, at, float(own.max() / own.min()))
