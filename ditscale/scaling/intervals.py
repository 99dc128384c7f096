"""How far to trust a law: percentile intervals from resampled runs.

Whole runs are drawn with replacement, each with all its points. The checkpoints of one run share its luck, so drawing
them one by one would promise intervals several times too narrow. With fewer than about ten runs percentile intervals
still lean to the narrow side.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ditscale.scaling.fitting import solve_power_law
from ditscale.scaling.status import MIN_RUNS, Status, as_points, check_points

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Band:
    """The law's own interval at each x of a grid (not where the next point will fall). Three arrays ``(k,)``."""

    x: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class RunBootstrap:
    """95 % intervals of each coefficient by name, and the band; both absent where ``status`` is not CONVERGED.

    ``usable`` counts the resamples that held a law at all: one that drew runs of a single x does not.
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
        return self.status.sentence + (f" ({self.detail})" if self.detail else "")

    def card(self) -> dict:
        """What was resampled, ready for JSON."""
        return {
            "status": self.status.name, "sentence": self.sentence, "level": LEVEL, "method": "percentile bootstrap",
            "resampled": "runs", "n_runs": self.n_runs, "resamples": self.resamples, "usable": self.usable,
            "seed": self.seed,
        }


def bootstrap_runs(x, y, groups=None, *, solve: Callable = solve_power_law, grid=None,
                   resamples: int = 2000, seed: int = 0) -> RunBootstrap:
    """Intervals of a law's coefficients.

    Args:
        x, y, groups: the points, as in ``fit_power_law``; ``(n,)`` each.
        solve: ``(x, y, weights) -> law or None``; the weight of a point is how often its run was drawn.
        grid: x values of the band, ``(k,)``; none without it.

    Returns:
        a ``RunBootstrap``; refused, with the reason as its status, on data no law can be fitted to or under 3 runs.
    """
    x, y, groups = as_points(x, y, groups)
    names, run_of_point = np.unique(groups, return_inverse=True)
    status, detail = check_points(x, y, groups)
    if status in (Status.CONVERGED, Status.TOO_FEW_POINTS) and len(names) < MIN_RUNS:
        status, detail = Status.TOO_FEW_RUNS, f"{len(names)} runs"
    facts = {"n_runs": len(names), "resamples": resamples, "seed": seed}
    if not status.ok:
        return RunBootstrap(status=status, detail=detail, usable=0, **facts)

    laws = [solve(x, y, counts[run_of_point]) for counts in _times_drawn(len(names), resamples, seed)]
    laws = [law for law in laws if law is not None]
    drawn = {name: [getattr(law, name) for law in laws] for name in laws[0].coefficients()}
    return RunBootstrap(
        status=status, detail="", usable=len(laws), **facts,
        coefficients={name: _interval(values) for name, values in drawn.items()},
        band=None if grid is None else _band(laws, np.asarray(grid, dtype=np.float64)),
    )


def _times_drawn(n_runs: int, resamples: int, seed: int) -> np.ndarray:
    """How often each run is in each resample, ``(resamples, n_runs)``; every row sums to ``n_runs``."""
    fair = np.full(n_runs, 1.0 / n_runs)
    return np.random.default_rng(seed).multinomial(n_runs, fair, size=resamples).astype(np.float64)


def _interval(values: list[float]) -> Interval:
    low, high = np.quantile(values, _tails())
    return Interval(float(low), float(high))


def _band(laws: list, grid: np.ndarray) -> Band:
    low, high = np.quantile([law.evaluate(grid) for law in laws], _tails(), axis=0)
    return Band(grid, low, high)


def _tails() -> tuple[float, float]:
    return (1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0
