"""Forecasts the score of a larger run from smaller runs, before the larger run starts.

There are four ways, in this order; the first that the runs support with an interval is used, and the reasons against earlier ones are
kept in ``passed_over``:

- ``surface``: Chinchilla's form fitted to the end of every run. It needs three sizes and three lengths that vary independently.
- ``equal data``: a law in the size, fitted to each run's score at the target's amount of data, read from its curve (``run_curves``).
- ``equal ratio``: the same at the target's data per size, for example at 200 tokens per parameter. A ladder with one length has this way only.
- ``along runs``: Chinchilla's form fitted to all checkpoints, with runs as the independent units.

A law in the size has a floor if there are four sizes or the floor is pinned; with three sizes it is a power law without a floor, which its formula shows.

The interval is for one new run, not for the law: the law's profile interval (``profile``) and the spread of runs around it, each with
Student's t by runs, added in quadrature. docs/predict.md has its coverage on simulated sets of runs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from ditscale.errors import UserError, count
from ditscale.scaling import inputs
from ditscale.scaling.fitting import check, fit, gather
from ditscale.scaling.interval import LEVEL, Interval
from ditscale.scaling.laws import Law
from ditscale.scaling.pinned import pin
from ditscale.scaling.result import Fit
from ditscale.scaling.run_curves import run_curves
from ditscale.scaling.status import FARTHEST

SURFACE, EQUAL_DATA, EQUAL_RATIO, ALONG = WAYS = ("surface", "equal data", "equal ratio", "along runs")
LEAST_SIZES = 3
SAME = 1e-3                # amounts of data this close count as equal: runs end at whole batches
SAME_RATIO = 1e-2          # and at equal ratio, where the target's end is rounded to a whole batch too, this close if a run ends before


@dataclass(frozen=True, eq=False)
class Rungs:
    """Evaluations of the smaller runs: size, data, score and run of each, ``(n,)``. Size is forward FLOPs per image; data is in images.

    ``unit`` is the data of one unit of the ratio in which runs are equally long for their size, for example the images of one token per
    parameter; by default the size itself.
    """

    size: np.ndarray
    data: np.ndarray
    score: np.ndarray
    runs: np.ndarray
    unit: np.ndarray | None = None

    def __post_init__(self):
        if self.unit is None:
            object.__setattr__(self, "unit", self.size)
        inputs.require_one_table(size=self.size, data=self.data, score=self.score, runs=self.runs, unit=self.unit)
        for name in ("size", "data", "score", "unit"):
            object.__setattr__(self, name, np.atleast_1d(inputs.numbers(name, getattr(self, name))))
        object.__setattr__(self, "runs", inputs.names("runs", self.runs, len(self.score)))
        if not self.size.shape == self.data.shape == self.score.shape == self.runs.shape == self.unit.shape:
            raise UserError(f"size, data, score, runs and unit must be of equal length; got {self.size.shape}, {self.data.shape}, "
                            f"{self.score.shape}, {self.runs.shape}, {self.unit.shape}")
        for name in ("size", "data", "score", "unit"):
            inputs.require_positive(name, getattr(self, name))

    def where(self, kept: np.ndarray) -> "Rungs":
        return Rungs(self.size[kept], self.data[kept], self.score[kept], self.runs[kept], self.unit[kept])

    @property
    def ends(self) -> "Rungs":
        """The last evaluation of each run."""
        last = [np.flatnonzero(self.runs == run)[np.argmax(self.data[self.runs == run])] for run in np.unique(self.runs)]
        return self.where(np.array(last, dtype=int))

    def read(self, data: float, ratio: bool = False) -> "Rungs":
        """Each run's score at this data, or with ``ratio`` at this many of its units: its evaluation there, or its curve's value. Runs that do
        not reach it are left out; one that ends within ``SAME_RATIO`` of a ratio has reached it."""
        curves = {curve.run: curve for curve in run_curves(self.size, self.data, self.score, self.runs)}
        found = []
        for run in np.unique(self.runs):
            own = np.flatnonzero(self.runs == run)
            wanted = float(data * self.unit[own[0]]) if ratio else data
            off = np.abs(self.data[own] / wanted - 1)
            score = float(curves[run].at(wanted)) if run in curves else math.nan
            if off.min() < SAME or (math.isnan(score) and ratio and off.min() < SAME_RATIO):
                score = float(self.score[own[off <= max(off.min(), SAME)]].mean())
            found.append((self.size[own[0]], wanted, score, self.unit[own[0]]))
        sizes, amounts, scores, units = np.array(found).T
        read = np.isfinite(scores)
        return Rungs(sizes[read], amounts[read], scores[read], np.unique(self.runs)[read], units[read])


@dataclass(frozen=True)
class LastRung:
    """The longest runs of the largest size, forecast in the same way from the other sizes. ``observed`` is their geometric mean."""

    size: float
    data: float
    observed: float
    predicted: float
    interval: Interval
    way: str

    @property
    def error(self) -> float:
        return self.predicted / self.observed - 1.0

    @property
    def inside(self) -> bool:
        return self.observed in self.interval

    def card(self) -> dict:
        return {"size": self.size, "data": self.data, "observed": self.observed, "predicted": self.predicted, "low": self.interval.low,
                "high": self.interval.high, "inside": self.inside, "relative_error": self.error, "way": self.way}


@dataclass(frozen=True, eq=False)
class Forecast:
    """``value`` of a new run at the target, with its 95 % ``interval``; ``last_rung`` is None if too few runs remain without the largest.

    ``reach`` is how many times beyond the runs the target lies, in its farthest variable. ``passed_over``: earlier ways,
    and the reason against each.
    """

    value: float
    interval: Interval
    way: str
    fit: Fit
    freedom: int
    run_noise: float                                                           # standard deviation of ln score between runs
    reach: float
    passed_over: tuple[str, ...] = ()
    last_rung: LastRung | None = None

    @property
    def half_width(self) -> float:
        """Half the interval's width relative to its middle, in logarithms."""
        return math.log(self.interval.high / self.interval.low) / 2

    @property
    def far(self) -> bool:
        """Whether the target is farther than laws are evaluated by default."""
        return self.reach > FARTHEST * (1 + 1e-9)

    def card(self) -> dict:
        """Ready for JSON."""
        return {"value": self.value, "low": self.interval.low, "high": self.interval.high, "level": LEVEL, "way": self.way,
                "form": self.fit.form, "coefficients": self.fit.law.coefficients(), "law_status": self.fit.status.name,
                "runs": self.fit.n_runs, "freedom": self.freedom, "run_noise_of_ln": self.run_noise, "reach": self.reach,
                "hold_out_of_last_rung": self.last_rung.card() if self.last_rung else None, "passed_over": list(self.passed_over),
                "data_sha256": self.fit.data_sha256}


def forecast(rungs: Rungs, size: float, data: float, *, pinned: dict[str, float] | None = None, way: str | None = None,
             unit: float | None = None) -> Forecast:
    """The score of a run of ``size`` after ``data``.

    Args:
        unit: the target's unit of the ratio, if the rungs have one; by default its size.
        pinned: coefficients known beforehand, for example ``{"E": 1.6, "alpha": 0.3}``: alpha is for the size, beta for the data.
        way: use this one of ``WAYS``.

    Raises:
        UserError: no way has an interval (the message has the reason against each), or ``way`` is unknown.
    """
    if way is not None and way not in WAYS:
        raise UserError(f"way '{way}' is not one of {', '.join(WAYS)}")
    for name, value in (("size", size), ("data", data)):
        if not 0 < value < math.inf:
            raise UserError(f"the target's {name} is {value!r}; give a number above 0")
    return replace(_first(rungs, size, data, unit or size, pinned or {}, way), last_rung=_last_rung(rungs, pinned or {}, way))


def _first(rungs: Rungs, size: float, data: float, unit: float, pinned: dict[str, float], way: str | None) -> Forecast:
    """The first way with an interval."""
    against: list[str] = []
    for one, form, points, in_size in _ways(rungs, data, unit, pinned):
        if way not in (None, one):
            continue
        columns = {"x": points.size} if in_size else {"N": points.size, "D": points.data}
        at = {"x": np.array([size])} if in_size else {"N": np.array([size]), "D": np.array([data])}
        found = _one(form, columns, points, at, one)
        if isinstance(found, Forecast):
            return replace(found, passed_over=tuple(against))
        against.append(f"{one}: {found}")
    raise UserError(f"no prediction: {'; '.join(against)}. Add a size or a length, or pin E")


def _last_rung(rungs: Rungs, pinned: dict[str, float], way: str | None) -> LastRung | None:
    """None if the other sizes cannot forecast it."""
    largest = rungs.size == rungs.size.max()
    data = float(rungs.data[largest].max())
    there = largest & (np.abs(rungs.data / data - 1) < SAME)
    try:
        found = _first(rungs.where(~largest), float(rungs.size.max()), data, float(rungs.unit[largest][0]), pinned, way)
    except UserError:
        return None
    observed = float(np.exp(np.log(rungs.score[there]).mean()))
    return LastRung(float(rungs.size.max()), data, observed, found.value, found.interval, found.way)


def _ways(rungs: Rungs, data: float, unit: float, pinned: dict[str, float]) -> Iterator[tuple[str, type[Law], Rungs, bool]]:
    """Each way with its form, its points, and whether size is the form's only variable."""
    surface = pin("chinchilla", **pinned)
    if not rungs.score.size:
        return
    yield SURFACE, surface, rungs.ends, False
    for name, points in ((EQUAL_DATA, rungs.read(data)), (EQUAL_RATIO, rungs.read(data / unit, ratio=True))):
        yield name, _law_in_size(points, pinned), points, True
    yield ALONG, surface, rungs, False


def _law_in_size(points: Rungs, pinned: dict[str, float]) -> type[Law]:
    kept = {name: value for name, value in pinned.items() if name != "beta"}
    has_floor = "E" in kept or len(np.unique(points.size)) > LEAST_SIZES
    return pin("power_law_floor" if has_floor else "power_law", **kept)


def _one(form: type[Law], columns: dict, points: Rungs, at: dict, way: str) -> Forecast | str:
    """The forecast of one way, or the reason against it."""
    if way != ALONG and len(np.unique(points.size)) < LEAST_SIZES:
        return f"{count(len(np.unique(points.size)), 'size')}{'' if way == SURFACE else ' trained as long'}; {LEAST_SIZES} are needed"
    status, detail = check(gather(form, columns, points.score, points.runs))
    if not status.ok:
        return status.because(detail)
    law = fit(form, columns, points.score, points.runs)
    found = prediction_interval(law, at)
    if isinstance(found, str):
        return found
    interval, freedom, noise = found
    return Forecast(float(law.law.evaluate(at)[0]), interval, way, law, freedom, noise, _reach(law, at))


def prediction_interval(law: Fit, at: dict) -> tuple[Interval, int, float] | str:
    """The interval for one new run at one x, its degrees of freedom and the runs' noise in ln y; or why there is none."""
    if law.law is None:
        return law.words
    bounds = law.intervals(at=at)
    if bounds.band is None:
        return bounds.sentence
    if bounds.no_extension:
        return bounds.no_extension
    low, high, middle = float(bounds.band.low[0]), float(bounds.band.high[0]), float(law.law.evaluate(at)[0])
    if not (low > 0 and high < math.inf):
        return "the interval has no end: the runs do not determine the law there"
    noise = run_noise(law)
    own = special.stdtrit(bounds.freedom, 0.5 + LEVEL / 2) * noise
    reach = [math.hypot(math.log(end / middle), own) for end in (low, high)]
    return Interval(middle * math.exp(-reach[0]), middle * math.exp(reach[1])), bounds.freedom, noise


def run_noise(law: Fit) -> float:
    """The standard deviation of ln y around the law: of whole runs, and of single checkpoints."""
    residuals = np.log(law.points.y / law.law.evaluate(law.points.columns))
    _, run = np.unique(law.points.groups, return_inverse=True)
    counts = np.bincount(run)
    means = np.bincount(run, residuals) / counts
    freedom = max(len(counts) - len(law.law.names()), 1)
    within = np.sum((residuals - means[run]) ** 2) / max(len(run) - len(counts), 1)
    return math.sqrt(np.sum(means**2) / freedom + within)


def _reach(law: Fit, at: dict) -> float:
    beyond = [max(float(at[name][0]) / high, low / float(at[name][0]), 1.0) for name, (low, high) in law.x_ranges.items()]
    return max(beyond)
