"""Profile intervals: a coefficient, or the law at some x, is moved and the rest refitted until the misfit exceeds a limit.

The profile-likelihood interval in its F form (Bates and Watts 1988, ch. 6): with S the sum of squared residuals of n points,
p coefficients and t the quantile of Student's distribution, a value belongs to the interval while

    S(value) - S(best) <= t^2 * S(best) / (n - p).

Unlike bootstrap percentiles, it accounts for the degrees of freedom used by the coefficients, needs no symmetry, and
can have an open end (a floor down to 0, an exponent up to infinity) if the data do not bound it. If runs have several points,
the noise is that of runs: the degrees of freedom are counted in runs, and the right side is multiplied by the ratio of the
cluster-robust variance (CR3) to the naive one.

Beyond the data the law itself may change. If runs have several points, the interval there also includes any bend that
their residual curves allow (``along_runs.Bend``); if the seeds or the runs' ends contradict the law, there is no interval.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from ditscale.errors import UserError, count
from ditscale.scaling.along_runs import Bend, Runs, time_of
from ditscale.scaling.interval import LEVEL, Band, Interval
from ditscale.scaling.laws import as_columns
from ditscale.scaling.solver import Loss, Pull, minimize
from ditscale.scaling.status import MIN_RUNS, Status

if TYPE_CHECKING:
    from ditscale.scaling.result import Fit

LADDER = np.array([0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 3.7, 4.5, 6.0, 8.0, 12.0, 20.0, 40.0])      # standard errors
FLOOR_LADDER = np.concatenate([[1e-9], np.linspace(0.01, 0.9, 24), 1.0 - np.geomspace(0.08, 1e-3, 12), [1.02, 1.05]])
STIFFNESS = 100.0         # of the pull, relative to the profile's curvature
REFINED = 5
FEW_FREEDOM = 3           # below this, the misfit may be almost zero by chance: with three points, under a tenth of its size in 8 % of cases
EFFORT: dict[str, Any] = {"iterations": 100, "tolerance": 1e-6}


@dataclass(frozen=True)
class ProfileIntervals:
    """95 % intervals of each coefficient by name, and the band; both absent if ``status`` is not CONVERGED.

    An end that the data do not bound is 0 or infinite. ``inflation`` is the factor by which runs with several points
    widen the squared half-width, the maximum over the coefficients; 1 if every run is one point. ``no_extension`` says why
    the band is NaN beyond the data; ``bend`` is the bend that widened it there.
    """

    status: Status
    detail: str
    n_runs: int
    freedom: int
    inflation: float = 1.0
    coefficients: dict[str, Interval] = field(default_factory=dict)
    band: Band | None = None
    bend: Bend | None = None
    no_extension: str = ""

    @property
    def sentence(self) -> str:
        return self.status.because(self.detail)

    @property
    def basis(self) -> str:
        """The basis of the width, in words."""
        few = ", so few that a narrow interval may be chance" if self.freedom < FEW_FREEDOM else ""
        return f"{count(self.n_runs, 'run')}, {count(self.freedom, 'degree')} of freedom{few}"

    def card(self) -> dict:
        """A description of the method, ready for JSON."""
        return {"status": self.status.name, "sentence": self.sentence, "level": LEVEL, "method": "profile likelihood, F form",
                "unit_of_noise": "runs", "n_runs": self.n_runs, "freedom": self.freedom, "inflation_by_runs": self.inflation,
                "bend_beyond_the_data": self.bend.card() if self.bend else None, "no_extension": self.no_extension or None}


def profile_intervals(fit: "Fit", at=None) -> ProfileIntervals:
    """Intervals of a least-squares fit.

    Args:
        at: x of the band, in the format of ``fit``'s x; default no band.

    Raises:
        UserError: the fit is not least squares, which the F form requires.
    """
    freedom = fit.n_runs - (len(fit.law.names()) if fit.law else 0)
    if fit.law is None or fit.status is Status.NO_OPTIMUM:
        return ProfileIntervals(fit.status, fit.detail, fit.n_runs, max(freedom, 0))
    if fit.n_runs < MIN_RUNS or freedom < 1:
        return ProfileIntervals(Status.TOO_FEW_RUNS, f"{count(fit.n_runs, 'run')} for {count(len(fit.law.names()), 'coefficient')}", fit.n_runs,
                                max(freedom, 0))
    if fit.loss.delta is not None:
        raise UserError("profile intervals need loss='square'; for Huber's loss use intervals.bootstrap_runs")
    profile = _Profile(fit, freedom)
    coefficients = {name: profile.of_coefficient(i, name) for i, name in enumerate(fit.law.names())}
    band = None if at is None else profile.band(as_columns(type(fit.law), at))
    return ProfileIntervals(Status.CONVERGED, "", fit.n_runs, freedom, profile.most_inflation, coefficients, band, profile.bend,
                            fit.no_extension)


class _Profile:
    def __init__(self, fit: "Fit", freedom: int) -> None:
        self.fit, self.points = fit, fit.points
        self.model, self.loss = self.points.model, Loss(None, fit.loss.in_log)
        self.best = self.model.to_centered(fit.search.theta[None])
        self.least = 2.0 * fit.search.objective
        n, p = len(self.points.y), self.best.shape[1]
        self.variance = max(self.least / (n - p), 1e-30)
        self.t2 = special.stdtrit(freedom, 0.5 + LEVEL / 2) ** 2
        log_y, shares = self.model.evaluate(self.best)
        scale = 1.0 if self.loss.in_log else np.exp(log_y[0])
        self.jacobian = (self.model.jacobian(self.best, shares)[0] * scale * np.sqrt(self.points.weights)).T      # (n, p)
        predicted = log_y[0] if self.loss.in_log else np.exp(log_y[0])
        observed = np.log(self.points.y) if self.loss.in_log else self.points.y
        self.residuals = (observed - predicted) * np.sqrt(self.points.weights)
        self.inverse = np.linalg.pinv(self.jacobian.T @ self.jacobian, rcond=1e-12, hermitian=True)
        self.robust, self.most_inflation = self._robust(), 1.0
        self.bend = self._bend()

    def of_coefficient(self, i: int, name: str) -> Interval:
        direction = np.linalg.solve(self.model.shift, np.eye(self.best.shape[1]))[i]
        offset = self.fit.search.theta[i] - direction @ self.best[0]      # the position of a knee shifts with the center
        amplitude = name in self.fit.law.amplitudes()
        ladder = np.log(FLOOR_LADDER * self.points.y.min()) - offset if name == "E" else None
        low, high = (float(end + offset) for end in self._ends(_Linear(self, direction), direction, ladder))
        return Interval(*(math.exp(end) if end < 700 else math.inf for end in (low, high))) if amplitude else Interval(low, high)

    def band(self, at: dict[str, np.ndarray]) -> Band:
        ends, gradients = [], []
        at = {name: np.atleast_1d(column) for name, column in at.items()}
        for k in range(len(next(iter(at.values())))):
            where = {name: column[[k]] for name, column in at.items()}
            here = self.points.form.model(where, self.points.center)
            log_y, shares = here.evaluate(self.best)
            gradient = here.jacobian(self.best, shares)[0, :, 0]
            ends.append(self._ends(_Prediction(self, where, float(log_y[0, 0]), gradient), gradient, None))
            gradients.append(gradient)
        low, high = self._beyond(np.array(ends), np.array(gradients), at)
        return Band(at["x"] if list(at) == ["x"] else at, low, high)

    def _bend(self) -> Bend | None:
        time = time_of(self.points.columns, self.points.groups)
        if time is None:
            return None
        scale = np.sqrt(self.points.weights) * (1.0 if self.loss.in_log else self.fit.law.evaluate(self.points.columns))
        return Runs(self.points.columns, self.points.groups, self.residuals, self.jacobian).bend(self.points.columns, time, scale, LEVEL)

    def _beyond(self, ends: np.ndarray, gradients: np.ndarray, at: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The band's ends ``(k,)``, beyond the data widened by the bend, or NaN; ``ends`` ``(k, 2)`` are of ln y."""
        low, high = ends.T
        outside = {name: (c < self.fit.x_ranges[name][0] * (1 - 1e-9)) | (c > self.fit.x_ranges[name][1] * (1 + 1e-9))
                   for name, c in at.items()}
        if self.bend is not None:
            wider = self.bend.widened(low, high, at, gradients)
            low, high = (np.where(outside[self.bend.time], w, now) for w, now in zip(wider, (low, high)))
        low, high = np.exp(np.minimum(low, 700.0)), np.exp(np.minimum(high, 700.0))
        if self.fit.no_extension:
            low, high = (np.where(np.any(list(outside.values()), axis=0), np.nan, end) for end in (low, high))
        return low, high

    def _ends(self, quantity, gradient: np.ndarray, ladder: np.ndarray | None) -> tuple[float, float]:
        """Where the misfit crosses the limit below and above the best value; infinite if it never does."""
        error = math.sqrt(max(gradient @ self.inverse @ gradient * self.variance, 1e-24))
        limit = self.t2 * self.variance * self._inflation(gradient, error)
        if ladder is None:
            ladder = quantity.best + error * np.concatenate([-LADDER, LADDER])
        else:
            error = min(max(error, 0.01), 1.0)                            # of ln E, which may be flat or almost flat
        at, misfit = quantity.pulled(ladder, error)
        sides = []
        for sign in (-1, 1):
            side = (at - quantity.best) * sign > 0
            sides.append(self._crossing(quantity, at[side], misfit[side] - self.least, limit, error, sign * math.inf))
        return sides[0], sides[1]

    def _crossing(self, quantity, at: np.ndarray, misfit: np.ndarray, limit: float, error: float, never: float) -> float:
        """The value nearest to the best at which the misfit exceeds the limit, refined between its neighbors."""
        at, misfit = np.append(at, quantity.best), np.append(misfit, 0.0)
        for again in (True, False):
            order = np.argsort(np.abs(at - quantity.best))
            at, misfit = at[order], misfit[order]
            over = np.flatnonzero(misfit > limit)
            if not over.size:
                return never
            lower, upper = max(over[0] - 1, 0), over[0]
            if again:
                reached, squares = quantity.pulled(np.linspace(at[lower], at[upper], REFINED + 2)[1:-1], error)
                at, misfit = np.append(at, reached), np.append(misfit, squares - self.least)
        roots = np.sqrt(np.maximum(misfit[[lower, upper]], 0.0))          # the root of the excess is nearly linear
        part = (math.sqrt(limit) - roots[0]) / max(roots[1] - roots[0], 1e-300)
        return float(at[lower] + np.clip(part, 0.0, 1.0) * (at[upper] - at[lower]))

    def shifted(self, aims: np.ndarray, best: float, gradient: np.ndarray) -> np.ndarray:
        """Starts that would be exact if the law were linear, ``(s, p)``, within a few units."""
        along = self.inverse @ gradient / max(gradient @ self.inverse @ gradient, 1e-300)
        return self.best + np.clip((aims - best)[:, None] * along, -3.0, 3.0)

    def _inflation(self, gradient: np.ndarray, error: float) -> float:
        if self.robust is None:
            return 1.0
        ratio = max(1.0, float(gradient @ self.robust @ gradient) / error**2)
        self.most_inflation = max(self.most_inflation, ratio)
        return ratio

    def _robust(self) -> np.ndarray | None:
        """The CR3 covariance of theta, with runs as clusters; None if every run is one point."""
        runs, of_point = np.unique(self.points.groups, return_inverse=True)
        if len(runs) == len(of_point):
            return None
        meat = np.zeros_like(self.inverse)
        for run in range(len(runs)):
            rows = self.jacobian[of_point == run]
            leverage = np.eye(len(rows)) - rows @ self.inverse @ rows.T
            score = rows.T @ np.linalg.lstsq(leverage, self.residuals[of_point == run], rcond=1e-10)[0]
            meat += np.outer(score, score)
        return self.inverse @ meat @ self.inverse * (len(runs) - 1) / len(runs)


class _Linear:
    """A linear function of theta, such as a coefficient. A soft pull is enough: its resting point is exactly on the profile."""

    def __init__(self, profile: _Profile, direction: np.ndarray) -> None:
        self.profile, self.direction, self.best = profile, direction, float(direction @ profile.best[0])

    def pulled(self, aims: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
        """The resting points of the pulls and the sums of squares there."""
        p = self.profile
        pull = Pull(self.direction, aims, STIFFNESS * p.variance / error**2)
        done = minimize(p.model, p.points.y, p.shifted(aims, self.best, self.direction), p.loss, weights=p.points.weights,
                        pull=pull, **EFFORT)
        return done.theta @ self.direction, 2.0 * done.objective


class _Prediction:
    """ln of the law at one x, pulled by an extra point there; its share is subtracted from the misfit again."""

    def __init__(self, profile: _Profile, where: dict[str, np.ndarray], best: float, gradient: np.ndarray) -> None:
        self.profile, self.best, self.gradient = profile, best, gradient
        columns = {name: np.append(profile.points.columns[name], where[name]) for name in where}
        self.model = profile.points.form.model(columns, profile.points.center)

    def pulled(self, aims: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
        p = self.profile
        y = np.column_stack([np.broadcast_to(p.points.y, (len(aims), len(p.points.y))), np.exp(aims)])
        scale = 1.0 if p.loss.in_log else math.exp(-2.0 * self.best)      # the extra residual is then of y
        weights = np.append(p.points.weights, STIFFNESS * p.variance / error**2 * scale)
        done = minimize(self.model, y, p.shifted(aims, self.best, self.gradient), p.loss, weights=weights, **EFFORT)
        log_y = self.model.evaluate(done.theta)[0]
        r = (np.log(p.points.y) - log_y[:, :-1]) if p.loss.in_log else p.points.y - np.exp(log_y[:, :-1])
        return log_y[:, -1], np.sum(p.points.weights * r**2, axis=1)
