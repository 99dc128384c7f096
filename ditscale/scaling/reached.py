"""The cost of two variants to reach a target: the cheapest model of each, and ln C of each of its runs.

A model counts if all of its runs, in both variants, pass the target between two checkpoints. If one variant's runs were enough, a
size with which the other variant passed it before its first checkpoint would make the comparison unfair.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from ditscale.scaling.curves import Curve
from ditscale.scaling.status import Status


@dataclass(frozen=True, eq=False)
class Reached:
    """``log_costs`` has one value per run, ``(runs,)``; ``log_cost`` is their mean.

    ``slope`` is d level / d ln C around the target, below 0. ``sigma_of_level`` is the spread of ln score among the runs at one cost,
    NaN with one run.
    """

    status: Status
    detail: str = ""
    model: str = ""
    log_costs: np.ndarray = field(default_factory=lambda: np.empty(0))
    slope: float = math.nan
    sigma_of_level: float = math.nan

    @property
    def log_cost(self) -> float:
        return float(self.log_costs.mean())


def span(curves: list[Curve]) -> tuple[float, float]:
    """Lowest and highest level at which all runs of some model can be compared."""
    by_model = _by_model(curves).values()
    covered = [_covered(own) for own in by_model if _covered(own)[0] < _covered(own)[1]]
    return (min(low for low, _ in covered), max(high for _, high in covered)) if covered else (math.inf, -math.inf)


def reach(pair: tuple[list[Curve], list[Curve]], level: float, window: float) -> tuple[Reached, Reached]:
    """The cost at which each of two variants reaches a level, with its cheapest model among those with which both pass it.

    There is no result if a run was past the level at its first checkpoint and that checkpoint cost less than the cheapest: the
    true lowest cost was then not measured.

    Args:
        window: the slope is taken between this distance above the level and the same distance below it.
    """
    costs = [_costs_at(curves, level) for curves in pair]
    missed = [Reached(Status.NO_COMMON_RANGE, _missed(curves, level)) if not found else None for curves, found in zip(pair, costs)]
    shared = costs[0].keys() & costs[1].keys()
    if not shared:
        nothing = next((side for side in missed if side), Reached(Status.NO_COMMON_RANGE, "no model passes it in both variants"))
        return nothing, nothing
    first, second = (_cheapest(curves, {name: found[name] for name in shared}, level, window) for curves, found in zip(pair, costs))
    return first, second


def _costs_at(curves: list[Curve], level: float) -> dict[str, np.ndarray]:
    """ln C of each run, for the models with all runs passing the level."""
    costs = {model: np.array([curve.log_cost_at(level) for curve in own]) for model, own in _by_model(curves).items()}
    return {model: at for model, at in costs.items() if np.isfinite(at).all()}


def _cheapest(curves: list[Curve], costs: dict[str, np.ndarray], level: float, window: float) -> Reached:
    model = min(sorted(costs), key=lambda name: costs[name].mean())
    early = [curve for curve in curves if curve.start < level and curve.log_cost[0] <= costs[model].mean()]
    if early:
        return Reached(Status.NO_COMMON_RANGE, f"run '{early[0].run}' was past it at its first checkpoint, which cost less")
    own = [curve for curve in curves if curve.model == model]
    return Reached(Status.CONVERGED, "", model, costs[model], _slope(own, level, window), _spread(own, float(costs[model].mean())))


def _by_model(curves: list[Curve]) -> dict[str, list[Curve]]:
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.model, []).append(curve)
    return groups


def _covered(curves: list[Curve]) -> tuple[float, float]:
    """The levels that all of these runs pass."""
    return max(curve.end for curve in curves), min(curve.start for curve in curves)


def _missed(curves: list[Curve], level: float) -> str:
    short = [curve for curve in curves if curve.end > level]
    early = [curve for curve in curves if curve.start < level]
    if short:
        return f"{len(short)} of {len(curves)} runs did not reach it, including run '{short[0].run}'"
    return f"{len(early)} of {len(curves)} runs were past it at their first checkpoint, including run '{early[0].run}'"


def _slope(curves: list[Curve], level: float, window: float) -> float:
    """A chord of the mean curve, as the derivative of one run at one point would be dominated by a checkpoint's noise."""
    end, start = _covered(curves)
    low, high = max(level - window, end), min(level + window, start)
    if low >= high:
        return math.nan
    rise = np.mean([np.subtract(*curve.log_cost_at([low, high])) for curve in curves])
    return float((low - high) / rise)


def _spread(curves: list[Curve], log_cost: float) -> float:
    levels = np.array([curve.level_at(log_cost) for curve in curves])
    levels = levels[np.isfinite(levels)]
    return float(levels.std(ddof=1)) if len(levels) > 1 else math.nan
