"""The result of a fit: the law, how it was found, evidence against it, a card and a plot."""

import math
from dataclasses import dataclass

import numpy as np

from ditscale.errors import UserError
from ditscale.scaling.along_runs import TimeHoldOut
from ditscale.scaling.cards import number, versions
from ditscale.scaling.evidence import HoldOut, LackOfFit
from ditscale.scaling.fit_drawing import draw_fit
from ditscale.scaling.laws import Law, as_columns
from ditscale.scaling.outliers import Outliers, law_without
from ditscale.scaling.profile import profile_intervals
from ditscale.scaling.solver import Loss
from ditscale.scaling.status import FARTHEST, Status


@dataclass(frozen=True)
class Points:
    """Points of a form: columns by variable, y, the run of each, weights; ``(n,)`` each; and the model for the solver."""

    form: type[Law]
    columns: dict[str, np.ndarray]
    y: np.ndarray
    groups: np.ndarray
    weights: np.ndarray

    @property
    def center(self) -> dict[str, float]:
        return {name: float(np.log(column).mean()) for name, column in self.columns.items()}

    @property
    def model(self):
        return self.form.model(self.columns, self.center)

    def where(self, keep: np.ndarray) -> "Points":
        return Points(self.form, {name: c[keep] for name, c in self.columns.items()}, self.y[keep], self.groups[keep],
                      self.weights[keep])


@dataclass(frozen=True)
class Search:
    """How the optimum was found. ``theta`` ``(p,)`` is uncentered; ``objective`` is the sum over the points.

    ``agreeing`` starts ended within 1e-3 (relative) of the best objective. ``moved`` is False if the solver returned its best
    start, that is, found nothing.
    """

    theta: np.ndarray
    objective: float
    starts: int
    agreeing: int
    start_grid: str
    solver: str
    converged: bool
    moved: bool


@dataclass(frozen=True, eq=False)
class Fit:
    """One law fitted to one set of points, or the reason why there is none.

    ``residual_spread`` is the standard deviation of the residuals of ln y (n - p degrees of freedom): 0.05 is about 5 %,
    0.7 a factor of 2. ``r2`` is also of ln y. ``x_ranges`` is the range of the data: the law does not hold beyond it.
    ``correlations`` ``(p, p)`` are those of ``Law.theta``, in which amplitudes are logarithms. ``points`` are the fitted ones.
    ``outliers`` are runs far from their siblings; they are included, and ``without`` is the fit without them,
    or None.
    """

    form: str
    status: Status
    detail: str
    x_unit: str | dict
    y_unit: str
    n_points: int
    n_runs: int
    data_sha256: str
    points: Points
    law: Law | None = None
    loss: Loss | None = None
    objective_kind: str = "sum"
    search: Search | None = None
    lack_of_fit: LackOfFit | None = None
    hold_out: HoldOut | None = None
    hold_out_by_compute: HoldOut | None = None
    hold_out_in_time: TimeHoldOut | None = None
    r2: float = math.nan
    residual_spread: float = math.nan
    x_ranges: dict[str, tuple[float, float]] | None = None
    correlations: np.ndarray | None = None
    condition_number: float = math.nan
    outliers: Outliers = Outliers()
    without: "Fit | None" = None

    @property
    def words(self) -> str:
        """The status with its cause in the data."""
        return self.status.because(self.detail)

    @property
    def sentence(self) -> str:
        """``words``; if there are outliers, also their names and the coefficients without them."""
        return self.words + (f". {self.outlier_sentence}" if self.outliers.found else "")

    @property
    def outlier_sentence(self) -> str:
        """The outliers, and the coefficients with and without them; "" if there are none."""
        return law_without(self)

    @property
    def drawable(self) -> bool:
        """Whether a curve may be drawn: there is a law, and the points do not contradict it."""
        return self.law is not None and self.status.drawable

    @property
    def no_extension(self) -> str:
        """Why the law must not be evaluated beyond the data; "" if it may."""
        if self.lack_of_fit is not None and self.lack_of_fit.significant:
            return Status.LACK_OF_FIT.because(f"p = {self.lack_of_fit.p:.1g}")
        if self.hold_out_in_time is not None and self.hold_out_in_time.failed:
            return Status.FAILS_IN_TIME.because(self.hold_out_in_time.sentence)
        return ""

    @property
    def x_range(self) -> tuple[float, float]:
        """The range of the first variable."""
        return next(iter(self.x_ranges.values())) if self.x_ranges else (math.nan, math.nan)

    @property
    def objective(self) -> float:
        """The optimum's objective: the sum over the points or the mean, as chosen."""
        if self.search is None:
            return math.nan
        return self.search.objective / (self.n_points if self.objective_kind == "mean" else 1)

    def predict(self, x, extrapolate: bool = False) -> np.ndarray:
        """The law at each x.

        Raises:
            UserError: ``extrapolate`` is False and x is more than 4 times outside the data, or outside them at all if
                ``no_extension`` is set; or there is no law.
        """
        if self.law is None:
            raise UserError(f"there is no law to evaluate: {self.words}")
        for name, column in as_columns(type(self.law), x).items():
            low, high = self.x_ranges[name]
            worst = column.max() if column.max() / high > low / column.min() else column.min()
            if self.no_extension and not extrapolate and not low * (1 - 1e-9) <= worst <= high * (1 + 1e-9):
                raise UserError(f"{name} = {worst:.3g} is outside the data ({low:.3g} to {high:.3g}), and {self.no_extension}; "
                                "extrapolate=True overrides this")
            if not extrapolate and not low / FARTHEST * (1 - 1e-9) <= worst <= high * FARTHEST * (1 + 1e-9):
                raise UserError(f"{name} = {worst:.3g} is more than {FARTHEST:g} times outside the data ({low:.3g} to {high:.3g}); "
                                "extrapolate=True overrides this")
        return self.law.evaluate(x)

    def intervals(self, at=None):
        """95 % intervals of the coefficients and, at each x of ``at``, of the law; see ``profile.profile_intervals``."""
        return profile_intervals(self, at)

    def plot(self, ax, to: float | None = None, extrapolate: bool = False, intervals=None) -> None:
        """Draws points and curve on matplotlib axes; see ``fit_drawing.draw_fit``."""
        draw_fit(self, ax, to, extrapolate, intervals)

    def card(self, intervals=None, context: dict | None = None) -> dict:
        """Everything needed to quote or check the fit, ready for JSON: missing numbers are None, never NaN.

        Args:
            intervals: from ``Fit.intervals`` or ``bootstrap.bootstrap_runs`` for the same points.
            context: how the points were chosen and counted, in words; stored unchanged.
        """
        bounds = intervals.coefficients if intervals else {}
        coefficients = {
            name: {"value": number(value), "low": number(bounds[name].low) if name in bounds else None,
                   "high": number(bounds[name].high) if name in bounds else None}
            for name, value in (self.law.coefficients() if self.law else {}).items()
        }
        one = isinstance(self.x_unit, str)
        return {
            "status": self.status.name,
            "sentence": self.sentence,
            "form": self.form,
            "formula": self.law.formula(str(self.x_unit) if one else "x", self.y_unit) if self.law else None,
            "units": {"x": self.x_unit, "y": self.y_unit},
            "coefficients": coefficients,
            "change_when_x_doubles": self.law.change_at_double() if hasattr(self.law, "change_at_double") else None,
            "interval": intervals.card() if intervals else None,
            "method": self.method,
            "search": self._search_card(),
            "n_points": self.n_points,
            "n_runs": self.n_runs,
            "weights": "equal" if np.unique(self.points.weights).size < 2 else "given",
            "x_range": [number(v) for v in self.x_range],
            "x_ranges": {name: list(span) for name, span in (self.x_ranges or {}).items()},
            "r2_of_ln_y": number(self.r2),
            "residual_spread_of_ln_y": number(self.residual_spread),
            "lack_of_fit": self.lack_of_fit.card() if self.lack_of_fit else None,
            "correlations": None if self.correlations is None else np.round(self.correlations, 4).tolist(),
            "condition_number": number(self.condition_number),
            "hold_out_of_largest_x": self.hold_out.card() if self.hold_out else None,
            "hold_out_of_largest_compute": self.hold_out_by_compute.card() if self.hold_out_by_compute else None,
            "hold_out_in_time": self.hold_out_in_time.card() if self.hold_out_in_time else None,
            "no_extension": self.no_extension or None,
            "outliers": self.outliers.card(),
            "coefficients_without_outliers": self.without.law.coefficients() if self.without and self.without.law else None,
            "data_sha256": self.data_sha256,
            "versions": versions(),
            **(context or {}),
        }

    @property
    def method(self) -> str | None:
        if self.loss is None:
            return None
        of = "ln y" if self.loss.in_log else "y"
        kind = "least squares" if self.loss.delta is None else f"Huber's loss, delta {self.loss.delta:.3g},"
        return f"{kind} of the residuals of {of}"

    def _search_card(self) -> dict | None:
        found = self.search
        return None if found is None else {
            "loss": "square" if self.loss.delta is None else "huber", "delta": self.loss.delta,
            "residuals": "ln y" if self.loss.in_log else "y", "objective": self.objective_kind, "value": self.objective,
            "solver": found.solver, "starts": found.starts, "start_grid": found.start_grid, "starts_agreeing": found.agreeing,
            "agreement": "objective within 1e-3 of the best", "tolerance": "relative fall of 1e-14, three steps in a row",
        }
