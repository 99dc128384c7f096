"""Effective speed-up at equal compute: how much more compute the worse variant would need to reach the better one's loss.

Along ``L = E + A C^-alpha`` the excess loss shrinks with compute, so two losses at one cost are ``((L_worse - E) / (L_better - E))^(1/alpha)``
times apart in compute (Marin accepts changes by this number). Unlike ``multiplier`` it needs no loss that both variants pass: one pair of
runs at one cost is enough, but a floor and an exponent must be known; they come from a law of the baseline. Each
run gives one number, and the interval is Student's t on these with Welch's degrees of freedom, as in ``estimate``. It does not include
the error of the known values.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from ditscale.errors import UserError
from ditscale.scaling.cards import bounds, number, versions
from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import INCONCLUSIVE, MIN_SEEDS, REAL
from ditscale.scaling.estimate import EXACT, Estimate, nothing, welch
from ditscale.scaling.interval import LEVEL, Interval
from ditscale.scaling.status import Status


@dataclass(frozen=True)
class Speedup(Estimate):
    """The estimate, and at which ``cost`` and with which known values it was made."""

    variant: str = ""
    baseline: str = ""
    cost: float = math.nan
    floor: float = math.nan
    exponent: float = math.nan

    @property
    def sentence(self) -> str:
        if not self.status.ok:
            return f"INCONCLUSIVE: effective speed-up of {self.variant} over {self.baseline}: {self.status.sentence}"
        between = f", 95 % interval {self.interval.low:.3g} to {self.interval.high:.3g}" if self.interval else ""
        return (f"{self.verdict}: to reach the loss of {self.variant} at a cost of {self.cost:.3g}, {self.baseline} needs {self.value:.3g} times that "
                f"cost (E = {self.floor:g} and alpha = {self.exponent:g} pinned{between}); {self.reason}; {self.seeds[0]} and {self.seeds[1]} seeds")

    def card(self) -> dict:
        """Ready for JSON: missing numbers are None."""
        return {"status": self.status.name, "sentence": self.sentence, "variant": self.variant, "baseline": self.baseline, "level": LEVEL,
                "speedup": number(self.value), **bounds(self.interval), "sigma_of_ln": number(self.sigma), "degrees_of_freedom": number(self.freedom),
                "seeds": list(self.seeds), "verdict": self.verdict, "reason": self.reason, "cost": number(self.cost),
                "pinned": {"E": self.floor, "alpha": self.exponent}, "versions": versions()}


def effective_speedup(variant: Runs, baseline: Runs, *, floor: float, exponent: float, cost: float | None = None) -> Speedup:
    """Above 1 if the variant is better at equal cost: the baseline would need this many times its compute.

    Args:
        variant, baseline: runs of one model, or of sizes that are compared with each other; scores are losses, lower is better.
        floor, exponent: E and alpha of the baseline's loss in compute.
        cost: where they are compared; default the highest that every run has reached.

    Returns:
        a ``Speedup``, without an interval if a variant has fewer than three runs.

    Raises:
        UserError: the floor is not below every compared loss, the exponent is not above 0, or some run has not reached the cost.
    """
    facts: dict[str, Any] = {"variant": variant.name, "baseline": baseline.name, "floor": floor, "exponent": exponent}
    if variant.first_bad() or baseline.first_bad():
        return Speedup(**vars(nothing(Status.BAD_DATA)), **facts)
    if not 0 < exponent < math.inf:
        raise UserError(f"exponent {exponent!r} must be above 0: alpha of E + A C^-alpha")
    sides = [[(str(run), *_sorted(side, run)) for run in np.unique(side.runs)] for side in (variant, baseline)]
    reached = min(costs[-1] for side in sides for _, costs, _ in side)
    at = reached if cost is None else cost
    logs = []
    for side in sides:
        for run, costs, _ in side:
            if not costs[0] * (1 - 1e-9) <= at <= costs[-1] * (1 + 1e-9):
                raise UserError(f"run '{run}' was not scored on both sides of a cost of {at:.4g}; all runs have reached {reached:.4g}")
        logs.append(np.array([_log_excess(*one, at, floor) / exponent for one in side]))
    return Speedup(**vars(_estimate(logs[0], logs[1])), cost=at, **facts)


def _estimate(variant: np.ndarray, baseline: np.ndarray) -> Estimate:
    log_value, seeds = float(baseline.mean() - variant.mean()), (len(variant), len(baseline))
    if min(seeds) < MIN_SEEDS:
        reason = "one seed gives no estimate of the noise" if min(seeds) == 1 else f"{min(seeds)} seeds are too few for an interval"
        return Estimate(math.exp(log_value), None, math.nan, 0.0, INCONCLUSIVE, reason, seeds)
    sigma, freedom = welch([variant, baseline])
    half = special.stdtrit(freedom, 0.5 + LEVEL / 2) * sigma if sigma else 0.0
    interval = Interval(math.exp(log_value - half), math.exp(log_value + half))
    real = 1.0 not in interval and abs(log_value) > EXACT
    return Estimate(math.exp(log_value), interval, sigma, freedom, REAL if real else INCONCLUSIVE,
                    "the interval excludes one" if real else "the interval contains one", seeds)


def _sorted(side: Runs, run) -> tuple[np.ndarray, np.ndarray]:
    """A run's costs, increasing, and its scores."""
    own = np.flatnonzero(side.runs == run)
    own = own[np.argsort(side.cost[own], kind="stable")]
    return side.cost[own], side.score[own]


def _log_excess(run: str, costs: np.ndarray, scores: np.ndarray, at: float, floor: float) -> float:
    """ln (loss - floor), linear in ln cost between the checkpoints around it, as it is along the law."""
    after = min(int(np.searchsorted(costs, at * (1 - 1e-9))), len(costs) - 1)
    near = slice(max(after - 1, 0) if costs[after] > at * (1 + 1e-9) else after, after + 1)
    lowest = scores[near].min()
    if not 0 <= floor < lowest:
        raise UserError(f"floor {floor:g} must be at least 0 and below every loss; run '{run}' has {lowest:.6g}")
    return float(np.interp(math.log(at), np.log(costs[near]), np.log(scores[near] - floor)))
