"""Interpolates a run's loss between its checkpoints, and slices the curves of many runs at equal compute, data, or data per size.

A run with a constant learning rate, scored with averaged weights, gives a result at each length: the loss of its curve at D is that of
a run of D images. So a few long runs are enough for an isoFLOP study at any budget (Abra, arXiv 2608.17286): PCHIP of the loss over ln D
keeps the order of the points and adds no dips between them. ``leave_one_out`` measures the interpolation error: each
inner point is predicted from the others. Drop a run's warm-up first (``after``). Nothing is extrapolated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from ditscale.errors import UserError
from ditscale.scaling import inputs

LEAST = 3                  # points of a curve: with two, none can be left out


@dataclass(frozen=True, eq=False)
class RunCurve:
    """One run's score over its data. ``data`` increases strictly, ``(k,)``; several scores at one amount are averaged."""

    run: str
    size: float
    data: np.ndarray
    score: np.ndarray

    def at(self, data) -> np.ndarray:
        """The score at amounts of data; NaN outside the measured range. The shape of ``data``."""
        data = np.asarray(data, np.float64)
        span = (data >= self.data[0] * (1 - 1e-9)) & (data <= self.data[-1] * (1 + 1e-9))
        within = np.clip(data, self.data[0], self.data[-1])
        return np.where(span, PchipInterpolator(np.log(self.data), self.score)(np.log(within)), np.nan)

    @property
    def leave_one_out(self) -> float:
        """The root mean square relative error of inner points predicted by the curve of the others; NaN with two points."""
        errors = [RunCurve(self.run, self.size, np.delete(self.data, i), np.delete(self.score, i)).at(self.data[i]) / self.score[i] - 1
                  for i in range(1, len(self.data) - 1)]
        return float(np.sqrt(np.mean(np.square(errors)))) if errors else math.nan


@dataclass(frozen=True)
class Missed:
    """A run that is not in a slice, and why."""

    run: str
    level: float
    why: str


@dataclass(frozen=True, eq=False)
class Slices:
    """Points read from curves, ``(n,)`` each: ``level`` is the budget, amount or ratio of each. ``error`` is the curves' ``leave_one_out``,
    root mean square over runs."""

    size: np.ndarray
    data: np.ndarray
    score: np.ndarray
    runs: np.ndarray
    level: np.ndarray
    error: float
    missed: tuple[Missed, ...] = ()


def run_curves(size, data, score, runs, *, after: float = 0.0) -> list[RunCurve]:
    """The curve of each run with three points or more, sorted by the runs' names.

    Args:
        size, data, score, runs: of each evaluation, ``(n,)``: positive numbers, and the run's name.
        after: leave out evaluations up to this amount of data (a run's warm-up).

    Raises:
        UserError: arrays of different lengths, a value that is not positive, or a run with two sizes.
    """
    inputs.require_one_table(size=size, data=data, score=score, runs=runs)
    size, data, score = (np.atleast_1d(inputs.numbers(name, v)) for name, v in (("size", size), ("data", data), ("score", score)))
    runs = inputs.names("runs", runs, len(data))
    if not size.shape == data.shape == score.shape == runs.shape:
        raise UserError(f"size, data, score and runs must be of equal length; got {size.shape}, {data.shape}, {score.shape}, {runs.shape}")
    for name, values in (("size", size), ("data", data), ("score", score)):
        inputs.require_positive(name, values)
    curves = []
    for run in np.unique(runs):
        own = (runs == run) & (data > after)
        if np.ptp(size[runs == run]) > 0:
            raise UserError(f"run '{run}' has two sizes, {size[runs == run].min():g} and {size[runs == run].max():g}")
        distinct, where = np.unique(data[own], return_inverse=True)
        if len(distinct) >= LEAST:
            curves.append(RunCurve(str(run), float(size[own][0]), distinct, np.bincount(where, score[own]) / np.bincount(where)))
    return curves


def isoflop_slices(curves: list[RunCurve], budgets, *, k: float) -> Slices:
    """Points of equal compute ``C = k N D`` from runs that did not end at the budgets, for ``approaches.approach2(..., budget=slices.level)``.

    Args:
        budgets: FLOPs; k: of k N D, 3 if N is forward FLOPs per image and D images.
    """
    return read(curves, budgets, lambda size, budget: budget / (k * size))


def equal_data_slices(curves: list[RunCurve], amounts) -> Slices:
    """Points of equal data."""
    return read(curves, amounts, lambda size, amount: amount)


def equal_ratio_slices(curves: list[RunCurve], ratios) -> Slices:
    """Points of equal D / N, such as equal tokens per parameter."""
    return read(curves, ratios, lambda size, ratio: ratio * size)


def read(curves: list[RunCurve], levels, data_at: Callable[[float, float], float]) -> Slices:
    """Each curve's score at ``data_at(size, level)``; runs that begin after or end before it are in ``missed``."""
    points, missed = [], []
    for level in np.atleast_1d(np.asarray(levels, np.float64)):
        for curve in curves:
            data = data_at(curve.size, float(level))
            score = float(curve.at(data))
            if math.isnan(score):
                why = f"ends at {curve.data[-1]:.3g}" if data > curve.data[-1] else f"is first scored at {curve.data[0]:.3g}"
                missed.append(Missed(curve.run, float(level), f"needs {data:.3g}, {why}"))
            else:
                points.append((curve.size, data, score, float(level), curve.run))
    numbers = np.array([point[:4] for point in points]).reshape(-1, 4).T
    errors = np.array([curve.leave_one_out for curve in curves])
    known = errors[np.isfinite(errors)]
    return Slices(numbers[0], numbers[1], numbers[2], np.array([point[4] for point in points], dtype=str), numbers[3],
                  float(np.sqrt(np.mean(known**2))) if len(known) else math.nan, tuple(missed))
