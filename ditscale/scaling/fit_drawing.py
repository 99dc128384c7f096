"""Draws a fit on given matplotlib axes. Matplotlib is not imported here."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from ditscale.errors import UserError
from ditscale.scaling.status import FARTHEST

if TYPE_CHECKING:
    from ditscale.scaling.result import Fit

INK, CURVE = "#222222", "#0072b2"
STEPS = 200


def draw_fit(fit: "Fit", ax, to: float | None = None, extrapolate: bool = False, intervals=None) -> None:
    """Draws the points, and the curve if there is one: solid within the data, dashed beyond it up to ``to``.

    With several variables the axes show the observed score against the law's, and the line on which they are equal.
    Without a usable law, draws only the points, with the reason above them.

    Args:
        to: the x at which the curve ends; default the end of the data.
        extrapolate: allows ``to`` beyond 4 times the data's largest x, and beyond the data despite ``fit.no_extension``.
        intervals: with a band, which is drawn shaded.

    Raises:
        UserError: ``to`` is too far outside the data, or the law has several variables.
    """
    points = fit.points
    names = list(points.columns)
    one = len(names) == 1
    if to is not None:
        _check_far(fit, one, to, extrapolate)
    ax.set(xscale="log", yscale="log")
    usable = np.isfinite(points.y) & (points.y > 0)
    if not one and fit.law is not None:
        predicted = fit.law.evaluate(points.columns)
        ax.scatter(predicted, points.y, s=18, color=INK, alpha=0.7, linewidths=0, zorder=3)
        ax.set(xlabel=f"{fit.y_unit}, the law's", ylabel=f"{fit.y_unit}, observed")
        if fit.drawable:
            span = np.array([min(predicted.min(), points.y.min()), max(predicted.max(), points.y.max())])
            ax.plot(span, span, color=CURVE, linewidth=1.4, label="equal")
    else:
        x = points.columns[names[0]]
        ax.scatter(x[usable], points.y[usable], s=18, color=INK, alpha=0.7, linewidths=0, zorder=3)
        ax.set(xlabel=fit.x_unit[names[0]] if isinstance(fit.x_unit, dict) else fit.x_unit, ylabel=fit.y_unit)
        if one and fit.drawable:
            _draw_curve(fit, ax, to, intervals)
    if not fit.drawable:
        ax.set_title(textwrap.fill("no curve: " + fit.status.sentence, 48), fontsize=8, color=INK, loc="left")


def _check_far(fit: "Fit", one: bool, to: float, extrapolate: bool) -> None:
    if not one:
        raise UserError("to= needs a law of one variable; use predict() for a law of several")
    if fit.law is not None and fit.no_extension and to > fit.x_range[1] * (1 + 1e-9) and not extrapolate:
        raise UserError(f"to = {to:.3g} is beyond the data, which end at {fit.x_range[1]:.3g}, and {fit.no_extension}; "
                        "extrapolate=True draws it anyway")
    if fit.law is not None and to > FARTHEST * fit.x_range[1] and not extrapolate:
        raise UserError(f"to = {to:.3g} is more than {FARTHEST:g} times beyond the data, which end at {fit.x_range[1]:.3g}; "
                        "extrapolate=True draws it anyway")


def _draw_curve(fit: "Fit", ax, to: float | None, intervals) -> None:
    low, high = fit.x_range
    inside = np.geomspace(low, high, STEPS)
    ax.plot(inside, fit.law.evaluate(inside), color=CURVE, linewidth=1.6, label=fit.law.formula("x", "y"))
    if to is not None and to > high:
        beyond = np.geomspace(high, to, STEPS)
        ax.plot(beyond, fit.law.evaluate(beyond), color=CURVE, linewidth=1.6, linestyle="--", label="beyond the data")
    band = intervals.band if intervals else None
    if band is not None:
        ax.fill_between(band.x, band.low, band.high, color=CURVE, alpha=0.16, linewidth=0)
