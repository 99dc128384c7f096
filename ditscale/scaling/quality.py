"""Time to quality: the cost at which each run first reaches a score. Runs that never reach it are reported, not dropped."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ditscale.scaling.cards import quality_card
from ditscale.scaling.curves import Curve, Runs
from ditscale.scaling.differences import MIN_SEEDS
from ditscale.scaling.interval import Interval, half_width
from ditscale.scaling.outliers import Outliers, of_runs
from ditscale.scaling.status import Status

REACHED, NOT_REACHED, BEFORE = "reached", "not reached", "before its first evaluation"


@dataclass(frozen=True)
class RunTime:
    """One run. ``cost`` is that at the target; if the run did not reach it, its total cost; if it began past it, an upper limit."""

    run: str
    state: str
    cost: float


@dataclass(frozen=True)
class TimeToQuality:
    """``cost`` is the geometric mean over runs, NaN if one of them is censored; ``interval`` is its 95 % interval, for three runs or more.

    ``at_least`` uses the total cost of runs that did not reach the target: the mean is above it. NaN if a run
    began past the target. ``outliers`` are runs far from their siblings; they are included, and ``without`` is the result without them,
    or None.
    """

    status: Status
    detail: str
    target: float
    cost_unit: str
    runs: tuple[RunTime, ...] = ()
    cost: float = math.nan
    interval: Interval | None = None
    at_least: float = math.nan
    outliers: Outliers = Outliers()
    without: "TimeToQuality | None" = None

    @property
    def sentence(self) -> str:
        """The result; if there are outliers, also their names and the result without them."""
        return self.outliers.add_to(self.words, self.without)

    @property
    def words(self) -> str:
        """The result of all runs."""
        if self.status is Status.NOT_REACHED and math.isfinite(self.at_least):
            return f"a score of {self.target:.4g} takes more than {self.at_least:.3g} {self.cost_unit}: {self.detail}"
        if not self.status.ok:
            return self.status.because(self.detail)
        between = f", 95 % interval {self.interval.low:.3g} to {self.interval.high:.3g}" if self.interval else f" ({self.detail})"
        return f"a score of {self.target:.4g} takes {self.cost:.3g} {self.cost_unit}{between}"

    def card(self) -> dict:
        """Ready for JSON: missing numbers are None."""
        return quality_card(self)


def time_to_quality(runs: Runs, target: float, *, cost_unit: str = "cost") -> TimeToQuality:
    """The cost at which runs of one model and variant reach a score, from each run's monotone curve, never extrapolated.

    If ``runs`` has several models, their runs are treated as seeds of one: choose one model first.
    """
    assert target > 0, "the target must be a score above 0"
    bad = runs.first_bad() or ("" if len(runs.cost) else "no run")
    if bad:
        return TimeToQuality(Status.BAD_DATA, bad, target, cost_unit)
    far = of_runs((runs,))
    without = time_to_quality(runs.without(far.runs), target, cost_unit=cost_unit) if far.found else None
    level = math.log(target) * (1.0 if runs.lower_is_better else -1.0)
    found = tuple(_run_time(curve, level) for curve in runs.curves())
    logs = np.log([run.cost for run in found])
    late, early = ([run.run for run in found if run.state == state] for state in (NOT_REACHED, BEFORE))
    at_least = math.nan if early else math.exp(logs.mean())
    facts: dict[str, Any] = {"target": target, "cost_unit": cost_unit, "runs": found, "at_least": at_least, "outliers": far, "without": without}
    if late:
        return TimeToQuality(Status.NOT_REACHED, f"{len(late)} of {len(found)} runs did not reach it, including run '{late[0]}'", **facts)
    if early:
        detail = f"{len(early)} of {len(found)} runs were past it at their first evaluation, including run '{early[0]}'"
        return TimeToQuality(Status.NO_COMMON_RANGE, detail, **facts)
    if len(found) < MIN_SEEDS:
        seeds = "one seed" if len(found) == 1 else f"{len(found)} seeds"
        return TimeToQuality(Status.CONVERGED, f"{seeds}: no interval", cost=at_least, **facts)
    half = half_width(logs)
    interval = Interval(math.exp(logs.mean() - half), math.exp(logs.mean() + half))
    return TimeToQuality(Status.CONVERGED, "", cost=at_least, interval=interval, **facts)


def _run_time(curve: Curve, level: float) -> RunTime:
    if curve.end > level:
        return RunTime(curve.run, NOT_REACHED, math.exp(curve.last_log_cost))
    if curve.start < level:
        return RunTime(curve.run, BEFORE, math.exp(curve.log_cost[0]))
    return RunTime(curve.run, REACHED, math.exp(curve.log_cost_at(level)))
