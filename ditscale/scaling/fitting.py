"""From points to a law: least squares in log-log, with everything a reader needs to distrust it.

A fit is data. Where the points cannot carry a law, ``Fit.law`` is None and ``Fit.status`` says why.
"""

import hashlib
import math
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from ditscale.scaling.laws import PowerLaw
from ditscale.scaling.status import MIN_DISTINCT_X, Status, as_points, check_points

METHOD = "ordinary least squares of ln y on ln x, every point with equal weight"


@dataclass(frozen=True)
class HoldOut:
    """The law without the largest x, asked for the score there. ``error`` is predicted / observed - 1."""

    x: float
    observed: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.observed - 1.0


@dataclass(frozen=True)
class Fit:
    """One law through one set of points, or the reason why there is none.

    ``residual_spread`` is the standard deviation of the residuals of ln y (n - 2 degrees of freedom): 0.05 is about
    5 %, 0.7 a factor of 2. ``r2`` is of ln y too. ``x_range`` is the span of the data: the law says nothing beyond it.
    """

    form: str
    status: Status
    detail: str
    x_unit: str
    y_unit: str
    n_points: int
    n_runs: int
    data_sha256: str
    law: PowerLaw | None = None
    r2: float = math.nan
    residual_spread: float = math.nan
    x_range: tuple[float, float] = (math.nan, math.nan)
    hold_out: HoldOut | None = None

    @property
    def sentence(self) -> str:
        return self.status.sentence + (f" ({self.detail})" if self.detail else "")

    def card(self, intervals=None, context: dict | None = None) -> dict:
        """Everything needed to quote or doubt the fit, ready for JSON: absent numbers are None, never NaN.

        Args:
            intervals: what ``intervals.bootstrap_runs`` returned for the same points.
            context: how the points were chosen and counted, in words; kept as it is.
        """
        bounds = intervals.coefficients if intervals else {}
        law = self.law
        coefficients = {
            name: {"value": value, "low": bounds[name].low if name in bounds else None,
                   "high": bounds[name].high if name in bounds else None}
            for name, value in (law.coefficients() if law else {}).items()
        }
        return {
            "status": self.status.name,
            "sentence": self.sentence,
            "form": self.form,
            "formula": law.formula(self.x_unit, self.y_unit) if law else None,
            "units": {"x": self.x_unit, "y": self.y_unit},
            "coefficients": coefficients,
            "change_when_x_doubles": law.change_at_double() if law else None,
            "interval": intervals.card() if intervals else None,
            "method": METHOD,
            "n_points": self.n_points,
            "n_runs": self.n_runs,
            "x_range": [_number(v) for v in self.x_range],
            "r2_of_ln_y": _number(self.r2),
            "residual_spread_of_ln_y": _number(self.residual_spread),
            "hold_out_of_largest_x": None if self.hold_out is None else {
                "x": self.hold_out.x, "observed": self.hold_out.observed,
                "predicted": self.hold_out.predicted, "relative_error": self.hold_out.error,
            },
            "data_sha256": self.data_sha256,
            "versions": {name: version(name) for name in ("numpy", "scipy")},
            **(context or {}),
        }


def fit_power_law(x, y, groups=None, *, x_unit: str = "x", y_unit: str = "y") -> Fit:
    """``PowerLaw`` by least squares in log-log.

    Args:
        x: costs; y: scores; groups: the run of each point, without it each point is a run. ``(n,)`` each.
        x_unit, y_unit: what the axes are called in the card, unit included.

    Returns:
        a ``Fit``; on hopeless data one whose ``law`` is None and whose ``status`` and ``detail`` name the cause.
    """
    x, y, groups = as_points(x, y, groups)
    status, detail = check_points(x, y, groups)
    facts = {"form": PowerLaw.FORM, "status": status, "detail": detail, "x_unit": x_unit, "y_unit": y_unit,
             "n_points": len(x), "n_runs": len(np.unique(groups)), "data_sha256": _fingerprint(x, y, groups)}
    if not status.ok:
        return Fit(**facts)
    law = solve_power_law(x, y, np.ones_like(x))
    residuals = np.log(y) - np.log(law.evaluate(x))
    total = np.sum((np.log(y) - np.log(y).mean()) ** 2)
    return Fit(
        **facts,
        law=law,
        r2=float(1.0 - np.sum(residuals ** 2) / total) if total > 0 else math.nan,
        residual_spread=float(np.sqrt(np.sum(residuals ** 2) / (len(x) - 2))),
        x_range=(float(x.min()), float(x.max())),
        hold_out=_hold_out(x, y, groups),
    )


def solve_power_law(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> PowerLaw | None:
    """The weighted least-squares line in log-log, or None where the points with weight share one x. Shapes ``(n,)``."""
    weights = weights / weights.sum()
    log_x, log_y = np.log(x), np.log(y)
    mean_x, mean_y = weights @ log_x, weights @ log_y
    spread = weights @ (log_x - mean_x) ** 2            # centred: ln FLOPs near 40 would cost half the digits
    if spread <= 1e-18:
        return None
    slope = weights @ ((log_x - mean_x) * (log_y - mean_y)) / spread
    return PowerLaw(A=float(np.exp(mean_y - slope * mean_x)), alpha=float(-slope))


def _hold_out(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> HoldOut | None:
    """Leaves out every run that reaches the largest x; None where too little stays for a line that could be wrong."""
    at_top = x == x.max()
    keep = ~np.isin(groups, groups[at_top])
    if len(np.unique(x[keep])) < MIN_DISTINCT_X:
        return None
    law = solve_power_law(x[keep], y[keep], np.ones(keep.sum()))
    observed = np.exp(np.log(y[at_top]).mean())
    return HoldOut(x=float(x.max()), observed=float(observed), predicted=float(law.evaluate(x.max())))


def _fingerprint(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> str:
    """SHA-256 of the points, whatever order they came in."""
    rows = sorted(f"{g} {a!r} {b!r}" for g, a, b in zip(groups, x.tolist(), y.tolist()))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
