"""Fits a law to points: ``fit("chinchilla", {"N": n, "D": d}, loss)``, with its diagnostics.

If the points do not determine a law, ``Fit.law`` is None and ``Fit.status`` says why.
"""

import hashlib
import math
from typing import Any

import numpy as np

from ditscale.errors import UserError, count
from ditscale.scaling import along_runs, inputs, outliers, starts as start_grids
from ditscale.scaling.along_runs import Runs, TimeHoldOut
from ditscale.scaling.evidence import HoldOut, LackOfFit, distinct_points, lack_of_fit, left_out
from ditscale.scaling.laws import Law, as_columns, form_of
from ditscale.scaling.result import Fit, Points, Search
from ditscale.scaling.solver import Loss, Solutions, minimize, minimize_from_grid
from ditscale.scaling.status import MIN_DISTINCT_X, Status, first_bad
from ditscale.scaling.terms import DEAD_SHARE
from ditscale.scaling.varpro import best_on_grid

DELTA_OF_NATS = 1e-3          # Hoffmann et al.'s, for a loss near 2 nats; with seeds, their spread is used instead
AGREES = 1e-3                 # a start agrees if its objective is within this share of the best
FEW = 0.02                    # if a smaller share of the starts agrees, they are few
POLISH: dict[str, Any] = {"iterations": 5000, "tolerance": 1e-14}
STEEPEST = 10.0


def fit(form: str | type[Law], x, y, groups=None, *, loss: str = "square", delta: float | None = None, residuals: str = "ln y",
        objective: str = "sum", solver: str = "lm", starts=None, weights=None, x_unit: str | dict | None = None,
        y_unit: str = "y") -> Fit:
    """Fits the law of ``form`` to the points.

    Args:
        form: a name of ``laws.FORMS`` or its class.
        x: ``{"N": (n,), "D": (n,)}`` by the form's variables, ``(n, v)`` in their order, or ``(n,)`` for one variable: lists,
            arrays, or columns of one pandas table.
        y: scores, positive, ``(n,)``; groups: the run of each point; by default each point is a run.
        loss: "square", or "huber" with ``delta``: residuals beyond it count linearly, not squared. The default delta
            is the spread between seeds at one x, or ``DELTA_OF_NATS`` without seeds; for residuals of y, times
            the median y.
        residuals: "ln y" (equal relative errors count equally) or "y".
        objective: "sum" or "mean" over the points; the optimum is the same, only the value on the card differs.
        solver: "lm", or "varpro" (only for the square loss of y): see ``solver`` and ``varpro``.
        starts: theta ``(s, p)`` as in ``Law.theta``, amplitudes in logarithms; default a grid made from the data.
        weights: of the points, ``(n,)``.
        x_unit, y_unit: axis labels, with units; ``x_unit`` by variable if there are several.

    Returns:
        a ``Fit``; if the data do not determine a law, its ``law`` is None, and ``status`` and ``detail`` name the cause.

    Raises:
        UserError: an unknown option or variable, arrays of different lengths, values that are not numbers, or series
            with different labels.
    """
    form = form_of(form)
    points = gather(form, x, y, groups, weights)
    _check_options(loss, residuals, objective, solver)
    status, detail = check(points)
    facts: dict[str, Any] = {"form": form.FORM, "x_unit": _unit(form, x_unit), "y_unit": y_unit, "n_points": len(points.y),
             "n_runs": len(np.unique(points.groups)), "data_sha256": _fingerprint(points), "points": points}
    if not status.ok:
        return Fit(status=status, detail=detail, **facts)
    how = Loss(None if loss == "square" else _delta(delta, points, residuals), residuals == "ln y")
    found = search(points, how, solver, None if starts is None else np.atleast_2d(np.asarray(starts, dtype=np.float64)))
    law = form.from_theta(found.theta)
    against = _lack_of_fit(points, found.theta, how)
    in_time = _hold_out_in_time(points, how, found.theta)
    status, detail = _judge(points, law, found, against, in_time)
    far = outliers.of_law(points.columns, points.groups, points.y)
    without = None
    if far.found:
        kept = points.where(~np.isin(points.groups, far.runs))
        without = fit(form, kept.columns, kept.y, kept.groups, loss=loss, delta=delta, residuals=residuals, objective=objective,
                      solver=solver, starts=starts, weights=kept.weights, x_unit=x_unit, y_unit=y_unit)
    outs = {by: _hold_out(points, how, found.theta, by, *what) for by, what in left_out(points.columns, points.groups).items()}
    return Fit(status=status, detail=detail, law=law, loss=how, objective_kind=objective, search=found, lack_of_fit=against,
               hold_out=outs["size"], hold_out_by_compute=outs.get("compute"), hold_out_in_time=in_time, outliers=far, without=without,
               **facts, **_quality(points, law, found))


def fit_power_law(x, y, groups=None, *, x_unit: str = "x", y_unit: str = "y") -> Fit:
    """``PowerLaw`` by least squares in log-log: ``fit("power_law", ...)``."""
    return fit("power_law", x, y, groups, x_unit=x_unit, y_unit=y_unit)


def search(points: Points, loss: Loss, solver: str = "lm", starts: np.ndarray | None = None) -> Search:
    """The best theta from many starts, refined."""
    model = points.model
    if solver == "varpro":
        if loss.delta is not None or loss.in_log:
            raise UserError("solver 'varpro' is for loss='square' with residuals='y'; use solver='lm'")
        grid, kind = best_on_grid(points.form, points.columns, points.center, points.y, points.weights)[None], "variable projection"
    elif starts is not None:
        grid, kind = model.to_centered(starts), "given"
    else:
        grid, kind = start_grids.from_data(points.form, points.columns, points.y), "exponents x floors, from the data"
    rough = minimize_from_grid(model, points.y, grid, loss, weights=points.weights)
    polished = minimize(model, points.y, rough.theta[[rough.best]], loss, weights=points.weights, **POLISH)
    best = polished.objective[0]
    nothing = 1e-16 * points.weights.sum() * (1.0 if loss.in_log else np.median(points.y) ** 2)
    return Search(
        theta=model.from_centered(polished.theta)[0], objective=float(best), starts=len(grid), start_grid=kind, solver=solver,
        agreeing=int(np.sum(rough.objective <= best * (1.0 + AGREES) + nothing)), converged=bool(polished.converged[0]),
        moved=bool(best <= nothing or not np.allclose(polished.theta[0], grid[rough.best], rtol=0, atol=1e-10)))


def refit(points: Points, theta: np.ndarray, loss: Loss, weights: np.ndarray, **options) -> Solutions:
    """Many refits from one optimum, one per row of ``weights`` ``(s, n)``; theta is uncentered, in and out."""
    model = points.model
    begin = np.repeat(model.to_centered(theta[None]), len(weights), axis=0)
    done = minimize(model, points.y, begin, loss, weights=weights, **options)
    return Solutions(model.from_centered(done.theta), done.objective, done.converged)


def check(points: Points) -> tuple[Status, str]:
    """Whether the points can determine the form: a status, and its cause in the data."""
    for name, column in points.columns.items():
        bad = first_bad(column, points.y, points.groups)
        if bad:
            return Status.BAD_DATA, bad.replace("x =", f"{name} =", 1) if bad.startswith("x =") else bad
    if len(np.unique(points.groups)) == 1:
        return Status.ONE_RUN, f"run '{points.groups[0]}'"
    for name, column in points.columns.items():
        if len(np.unique(column)) < points.form.LEAST_DISTINCT.get(name, MIN_DISTINCT_X):
            return Status.TOO_FEW_POINTS, f"{len(np.unique(column))} distinct {name} in {count(len(points.y), 'point')}"
    distinct, needed = int(distinct_points(points.columns).max()) + 1, len(points.form.names())
    if distinct <= needed:
        return Status.TOO_FEW_SIZES, f"{distinct} distinct points for {needed} coefficients"
    if why := points.form.undetermined(points.columns):
        return Status.TOO_FEW_POINTS, why
    varied = [np.log(column) for column in points.columns.values() if np.ptp(column) > 0]
    if len(varied) > 1:
        logs = np.column_stack([column - column.mean() for column in varied])
        sizes = np.linalg.svd(logs, compute_uv=False)
        if sizes[-1] < 1e-3 * sizes[0]:
            return Status.ONE_LINE, f"{' and '.join(points.columns)} change together"
    return Status.CONVERGED, ""


def gather(form: str | type[Law], x, y, groups=None, weights=None) -> Points:
    """Converts the points to float64 columns, groups to text.

    Raises:
        UserError: arrays of different lengths, series from different tables, values that are not numbers, or variables other than the form's.
    """
    form = form_of(form)
    inputs.require_one_table(**(dict(x) if isinstance(x, dict) else {"x": x}), y=y, groups=groups, weights=weights)
    columns, y = as_columns(form, x), np.atleast_1d(inputs.numbers("y", y))
    groups = inputs.names("groups", groups, len(y))
    weights = np.ones(len(y)) if weights is None else inputs.numbers("weights", weights)
    lengths = {"y": y.shape, "groups": groups.shape, "weights": weights.shape, **{n: c.shape for n, c in columns.items()}}
    if len(set(lengths.values())) > 1 or y.ndim != 1:
        raise UserError("points must be flat and of equal length; got " + ", ".join(f"{n} {s}" for n, s in lengths.items()))
    inputs.require_positive("weights", weights)
    return Points(form, columns, y, groups, weights)


def _check_options(loss: str, residuals: str, objective: str, solver: str) -> None:
    for name, value, allowed in (("loss", loss, ("square", "huber")), ("residuals", residuals, ("ln y", "y")),
                                 ("objective", objective, ("sum", "mean")), ("solver", solver, ("lm", "varpro"))):
        if value not in allowed:
            raise UserError(f"{name} '{value}' is not one of {', '.join(allowed)}")


def _delta(delta: float | None, points: Points, residuals: str) -> float:
    if delta is not None:
        if not delta > 0:
            raise UserError(f"delta {delta} must be above 0: the residual from which Huber's loss grows linearly")
        return float(delta)
    log_y, where = np.log(points.y), distinct_points(points.columns)
    free = len(where) - where.max() - 1
    means = np.bincount(where, log_y) / np.bincount(where)
    spread = math.sqrt(np.sum((log_y - means[where]) ** 2) / free) if free else 0.0
    return (spread or DELTA_OF_NATS) * (1.0 if residuals == "ln y" else float(np.median(points.y)))


def _residuals(points: Points, theta: np.ndarray, loss: Loss) -> np.ndarray:
    predicted = points.form.from_theta(theta).evaluate(points.columns)
    return np.log(points.y / predicted) if loss.in_log else points.y - predicted


def _lack_of_fit(points: Points, theta: np.ndarray, loss: Loss) -> LackOfFit:
    """The lack-of-fit test. It assumes least squares, so a Huber fit is refitted for it."""
    square = Loss(None, loss.in_log)
    if loss.delta is not None:
        theta = refit(points, theta, square, points.weights[None], **POLISH).theta[0]
    if len(np.unique(points.groups)) < len(points.y):
        return residual_curves(points, theta, square).lack_of_fit()
    observed = np.log(points.y) if loss.in_log else points.y
    return lack_of_fit(points.columns, points.groups, observed, _residuals(points, theta, square), len(theta))


def residual_curves(points: Points, theta: np.ndarray, loss: Loss) -> Runs:
    """The residuals of a least-squares fit by run; theta is uncentered."""
    model = points.model
    log_y, shares = model.evaluate(model.to_centered(theta[None]))
    scale = np.sqrt(points.weights) * (1.0 if loss.in_log else np.exp(log_y[0]))
    jacobian = (model.jacobian(model.to_centered(theta[None]), shares)[0] * scale).T
    return Runs(points.columns, points.groups, _residuals(points, theta, loss) * np.sqrt(points.weights), jacobian)


def _judge(points: Points, law: Law, found: Search, against: LackOfFit, in_time: TimeHoldOut | None) -> tuple[Status, str]:
    """The most serious problem as the status, and all problems as the detail."""
    problems = []
    if not found.moved:
        problems.append((Status.NO_OPTIMUM, "the solver returned its start"))
    if not found.converged:
        problems.append((Status.NO_OPTIMUM, "not converged"))
    if against.significant:
        problems.append((Status.LACK_OF_FIT, f"F = {against.f:.3g}, p = {against.p:.1g}"))
    if in_time is not None and in_time.failed:
        problems.append((Status.FAILS_IN_TIME, in_time.sentence))
    problems += [(Status.BOUND_HIT, what) for what in _bounds_hit(points, law)]
    if found.solver == "lm" and found.starts > 1 and found.agreeing < max(2, FEW * found.starts):
        problems.append((Status.FEW_STARTS_AGREE, f"{found.agreeing} of {found.starts} starts"))
    return (problems[0][0], "; ".join(what for _, what in problems)) if problems else (Status.CONVERGED, "")


def _bounds_hit(points: Points, law: Law) -> list[str]:
    model = points.model
    shares = model.evaluate(model.to_centered(law.theta()[None]))[1][:, 0]
    hit = [f"{term.amplitude} is at zero" for term, share in zip(law.TERMS, shares) if share.max() < DEAD_SHARE]
    hit += [f"{n} = {v:.3g}" for n, v in law.coefficients().items() if n not in law.amplitudes() and abs(v) > STEEPEST]
    return hit + law.at_limits(points.columns)


def _hold_out(points: Points, loss: Loss, theta: np.ndarray, by: str, value: float, at_top: np.ndarray) -> HoldOut | None:
    """None if too few points remain to test a law."""
    kept = points.where(~np.isin(points.groups, points.groups[at_top]))
    if not len(kept.y) or not check(kept)[0].ok:
        return None
    predicted = _refitted(kept, loss, theta).evaluate({name: column[at_top] for name, column in points.columns.items()})
    return HoldOut(x=value, observed=_mean(points.y[at_top]), predicted=_mean(predicted), rms=_rms(points.y[at_top], predicted), by=by,
                   points=int(at_top.sum()))


def _hold_out_in_time(points: Points, loss: Loss, theta: np.ndarray) -> TimeHoldOut | None:
    """None if no run has several points, if none ends beyond the first halves, or if the first halves do not determine the law."""
    time = along_runs.time_of(points.columns, points.groups)
    if time is None:
        return None
    for by_count in (False, True):
        early, end = along_runs.halves(points.columns[time], points.groups, by_count)
        kept = points.where(early)
        if len(kept.y) and end.any() and check(kept)[0].ok:
            break
    else:
        return None
    observed, predicted = points.y[end], _refitted(kept, loss, theta).evaluate({name: column[end] for name, column in points.columns.items()})
    p, freedom = residual_curves(points, theta, loss).end_miss(early, end)
    return TimeHoldOut(observed=_mean(observed), predicted=_mean(predicted), rms=_rms(observed, predicted), points=int(end.sum()),
                       times=along_runs.times_beyond(points.columns[time], points.groups, early, end), p=p, freedom=freedom)


def _refitted(kept: Points, loss: Loss, theta: np.ndarray) -> Law:
    """The law of fewer points, started from the law of all points and from the grid."""
    starts = np.vstack([theta, kept.model.from_centered(start_grids.from_data(kept.form, kept.columns, kept.y))])
    return kept.form.from_theta(search(kept, loss, starts=starts).theta)


def _mean(values: np.ndarray) -> float:
    """The geometric mean."""
    return float(np.exp(np.log(values).mean()))


def _rms(observed: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted / observed - 1.0) ** 2)))


def _quality(points: Points, law: Law, found: Search) -> dict:
    """How well the law fits the points: residual spread, R², and correlations of the coefficients."""
    log_y = np.log(points.y)
    r = log_y - np.log(law.evaluate(points.columns))
    total = np.sum((log_y - log_y.mean()) ** 2)
    model = points.model
    theta = model.to_centered(found.theta[None])
    jacobian = model.jacobian(theta, model.evaluate(theta)[1])[0]
    spread = np.sqrt(np.sum(jacobian**2, axis=1, keepdims=True))
    scaled = jacobian / np.maximum(spread, 1e-300)
    covariance = np.linalg.pinv(jacobian @ jacobian.T, rcond=1e-12, hermitian=True)
    back = model.from_centered(np.eye(len(theta[0]))).T - model.from_centered(np.zeros_like(theta)).T
    covariance = back @ covariance @ back.T
    sigma = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    return {"r2": float(1.0 - np.sum(r**2) / total) if total > 0 else math.nan,
            "residual_spread": float(np.sqrt(np.sum(r**2) / (len(r) - len(found.theta)))),
            "x_ranges": {name: (float(c.min()), float(c.max())) for name, c in points.columns.items()},
            "correlations": np.clip(covariance / np.outer(sigma, sigma), -1.0, 1.0),
            "condition_number": float(np.linalg.cond(scaled))}


def _unit(form: type[Law], x_unit) -> str | dict:
    if len(form.VARIABLES) == 1:
        return x_unit.get("x", "x") if isinstance(x_unit, dict) else x_unit or "x"
    return {name: (x_unit or {}).get(name, name) for name in form.VARIABLES}


def _fingerprint(points: Points) -> str:
    """SHA-256 of the points, independent of their order."""
    columns = [column.tolist() for column in points.columns.values()]
    rows = sorted(" ".join([g, *map(repr, values)]) for g, *values in zip(points.groups, *columns, points.y.tolist()))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
