"""The cost of two variants to reach a target: for each the cheapest model, and ln C of each of its runs.

A model counts where all of its runs, of both variants, pass the target between two checkpoints. Would one variant's be enough, a
size that the other variant left behind before its first checkpoint would make the two frontiers uneven.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from ditscale.scaling.curves import Curve
from ditscale.scaling.status import Status


@dataclass(frozen=True, eq=False)
class Reached:
    """``log_costs`` is a value a run, ``(runs,)``; ``log_cost`` is their mean.

    ``slope`` is d level / d ln C around the target, below 0. ``sigma_of_level`` is the spread of ln score among the runs at one cost,
    NaN for one run.
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
    """Lowest and highest level at which some model has all its runs."""
    by_model = _by_model(curves).values()
    covered = [_covered(own) for own in by_model if _covered(own)[0] < _covered(own)[1]]
    return (min(low for low, _ in covered), max(high for _, high in covered)) if covered else (math.inf, -math.inf)


def reach(pair: tuple[list[Curve], list[Curve]], level: float, window: float) -> tuple[Reached, Reached]:
    """Where each of two variants reaches a level, each by its cheapest model of those that both pass it with.

    Nothing is said where a run was past the level at its first checkpoint and that checkpoint cost less than the cheapest: the
    true least cost is then one that was not measured.

    Args:
        window: the slope is taken from this far above the level to as far below it.
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
    """ln C of each run, for the models whose runs all pass the level."""
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
        return f"{len(short)} of {len(curves)} runs did not reach it, run '{short[0].run}' among them"
    return f"{len(early)} of {len(curves)} runs were past it at their first checkpoint, run '{early[0].run}' among them"


def _slope(curves: list[Curve], level: float, window: float) -> float:
    """A chord of the mean curve: the derivative of one run at one point would be the wobble of a checkpoint."""
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
