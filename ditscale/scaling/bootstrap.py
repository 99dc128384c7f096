"""Percentile intervals from runs drawn with replacement.

Whole runs are drawn, each with all its points. The errors of one run's checkpoints are correlated, so drawing checkpoints one by one
would give intervals several times too narrow. With few runs, percentile intervals are still too narrow (``docs/laws.md`` has the
measured coverage): ``profile`` makes intervals with the right coverage and is the default of ``Fit.intervals``.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ditscale.errors import count
from ditscale.scaling.evidence import distinct_points
from ditscale.scaling.fitting import check, gather, refit, search
from ditscale.scaling.interval import LEVEL, Band, Interval, percentiles, tails
from ditscale.scaling.laws import Law, as_columns, form_of
from ditscale.scaling.solver import Loss
from ditscale.scaling.status import MIN_RUNS, Status


@dataclass(frozen=True)
class RunBootstrap:
    """95 % intervals of each coefficient by name, and the band; both absent if ``status`` is not CONVERGED.

    ``usable`` counts the resamples that determine a law: one with runs at a single x does not.
    """

    status: Status
    detail: str
    n_runs: int
    resamples: int
    usable: int
    seed: int
    coefficients: dict[str, Interval] = field(default_factory=dict)
    band: Band | None = None

    @property
    def sentence(self) -> str:
        return self.status.because(self.detail)

    def card(self) -> dict:
        """A description of the resampling, ready for JSON."""
        return {
            "status": self.status.name, "sentence": self.sentence, "level": LEVEL, "method": "percentile bootstrap",
            "resampled": "runs", "n_runs": self.n_runs, "resamples": self.resamples, "usable": self.usable,
            "seed": self.seed,
        }


def bootstrap_runs(x, y, groups=None, *, form: str | type[Law] = "power_law", grid=None, resamples: int = 2000,
                   seed: int = 0, loss: Loss | None = None) -> RunBootstrap:
    """Percentile intervals of a law's coefficients. Every resample starts at the optimum of all points.

    Args:
        x, y, groups: the points, as in ``fitting.fit``.
        form: of the law; grid: x values of the band, in the format of x; default no band.
        loss: of the refits; default least squares of ln y.

    Returns:
        a ``RunBootstrap``; with fewer than 3 runs or data that do not determine a law, its status says why there are no intervals.
    """
    form, loss = form_of(form), loss or Loss()
    points = gather(form, x, y, groups)
    names, run_of_point = np.unique(points.groups, return_inverse=True)
    status, detail = check(points)
    if status in (Status.CONVERGED, Status.TOO_FEW_POINTS, Status.TOO_FEW_SIZES) and len(names) < MIN_RUNS:
        status, detail = Status.TOO_FEW_RUNS, count(len(names), 'run')
    facts: dict[str, Any] = {"n_runs": len(names), "resamples": resamples, "seed": seed}
    if not status.ok:
        return RunBootstrap(status=status, detail=detail, usable=0, **facts)

    drawn = times_drawn(len(names), resamples, seed)[:, run_of_point]
    drawn = drawn[_distinct_drawn(points, drawn) >= len(form.names())]
    theta = refit(points, search(points, loss).theta, loss, drawn).theta
    values = np.where([name in form.amplitudes() for name in form.names()], np.exp(np.minimum(theta, 700.0)), theta)
    return RunBootstrap(
        status=status, detail="", usable=len(theta), **facts,
        coefficients={name: percentiles(values[:, i]) for i, name in enumerate(form.names())},
        band=None if grid is None else _band(form, theta, grid),
    )


def _distinct_drawn(points, drawn: np.ndarray) -> np.ndarray:
    """The number of distinct x in each resample, ``(s,)``: with fewer than coefficients it does not determine them."""
    where = distinct_points(points.columns)
    present = np.zeros((len(drawn), where.max() + 1), dtype=bool)
    for i, cell in enumerate(where):
        present[:, cell] |= drawn[:, i] > 0
    return present.sum(axis=1)


def times_drawn(n_runs: int, resamples: int, seed: int) -> np.ndarray:
    """How often each run is in each resample, ``(resamples, n_runs)``; every row sums to ``n_runs``."""
    fair = np.full(n_runs, 1.0 / n_runs)
    return np.random.default_rng(seed).multinomial(n_runs, fair, size=resamples).astype(np.float64)


def _band(form: type[Law], theta: np.ndarray, grid) -> Band:
    columns = as_columns(form, grid)
    model = form.model(columns, dict.fromkeys(form.VARIABLES, 0.0))
    low, high = np.exp(np.quantile(model.evaluate(theta)[0], tails(), axis=0))
    return Band(columns["x"] if list(columns) == ["x"] else columns, low, high)
