"""A run's cost against its score as a monotone curve, and the cost at which it reaches a score.

Isotonic regression in logarithms removes the fluctuations of single checkpoints; PCHIP of ln cost against ln score goes
through the result. Both keep the order of the points, so a curve has one cost for each score. Nothing is extrapolated.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.interpolate import PchipInterpolator

from ditscale.errors import UserError
from ditscale.scaling import inputs
from ditscale.scaling.status import as_points, first_bad


@dataclass(frozen=True, eq=False)
class Runs:
    """Evaluations of the runs of one variant: cost, score and run of each, ``(n,)``; ``models`` if sizes differ.

    ``images`` seen at each evaluation: runs of one model are compared as siblings at equal images, or without them at equal cost.
    A run is one seed of one model. Scores must be positive (logarithms are used); ``lower_is_better`` is False for
    scores such as recall.
    """

    cost: np.ndarray
    score: np.ndarray
    runs: np.ndarray
    models: np.ndarray | None = None
    name: str = "variant"
    lower_is_better: bool = True
    images: np.ndarray | None = None

    def __post_init__(self):
        cost, score, runs = as_points(self.cost, self.score, self.runs)
        models = np.full(len(cost), "") if self.models is None else inputs.names("models", self.models, len(cost))
        if models.shape != cost.shape:
            raise UserError(f"models must be as long as cost; got cost {cost.shape}, models {models.shape}")
        for name, value in (("cost", cost), ("score", score), ("runs", runs), ("models", models)):
            object.__setattr__(self, name, value)
        if self.images is not None:
            object.__setattr__(self, "images", np.asarray(self.images, np.float64))
            assert self.images.shape == cost.shape, "images must be as long as cost"

    def without(self, runs) -> "Runs":
        """All but these runs."""
        kept = ~np.isin(self.runs, list(runs))
        return replace(self, cost=self.cost[kept], score=self.score[kept], runs=self.runs[kept], models=self.models[kept],
                       images=None if self.images is None else self.images[kept])

    def first_bad(self) -> str:
        """The first cost or score that is not positive, or ""."""
        return first_bad(self.cost, self.score, self.runs)

    def curves(self) -> "list[Curve]":
        """A curve for each run, in the order of the runs' names."""
        return [make_curve(self.cost[own], self.score[own], str(run), str(self.models[own[0]]), self.lower_is_better)
                for run, own in zip(*inputs.members(self.runs))]


@dataclass(frozen=True, eq=False)
class Curve:
    """One run. ``level`` is ln score, with its sign reversed if higher is better: it falls as ``log_cost`` rises, ``(k,)``."""

    run: str
    model: str
    log_cost: np.ndarray
    level: np.ndarray
    last_log_cost: float                                                       # of the last evaluation; the curve may end earlier
    _inverse: PchipInterpolator | None = field(repr=False, default=None)

    @property
    def start(self) -> float:
        """The level of its first checkpoint, the worst."""
        return float(self.level[0])

    @property
    def end(self) -> float:
        """The best level it reached."""
        return float(self.level[-1])

    def log_cost_at(self, level):
        """ln of the cost at which the run reaches a level; NaN outside the measured range. Shape of ``level``."""
        if self._inverse is None:
            return np.where(np.asarray(level) == self.level[0], self.log_cost[0], np.nan)
        return self._inverse(level, extrapolate=False)

    def level_at(self, log_cost: float) -> float:
        """The level at a cost, linear between checkpoints; NaN outside."""
        return float(np.interp(log_cost, self.log_cost, self.level, left=np.nan, right=np.nan))


def make_curve(cost, score, run: str, model: str, lower_is_better: bool) -> Curve:
    """The monotone curve of one run's evaluations, in any order; several at one cost are averaged. Shapes ``(n,)``."""
    log_cost, where = np.unique(np.log(cost), return_inverse=True)
    sign = 1.0 if lower_is_better else -1.0
    times = np.bincount(where).astype(float)
    level = np.bincount(where, sign * np.log(score)) / times
    x, y = falling(log_cost, level, times)
    inverse = PchipInterpolator(y[::-1], x[::-1]) if len(x) > 1 else None
    return Curve(run, model, x, y, float(log_cost[-1]), inverse)


def falling(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Isotonic regression by pooling adjacent violators: the means of x and y over each pool; y decreases strictly."""
    pools: list[tuple[float, float, float]] = []                               # weight, mean x, mean y
    for pool in zip(weights, x, y):
        while pools and pools[-1][2] <= pool[2]:
            (w, *before), (v, *now) = pools.pop(), pool
            pool = (w + v, *((w * a + v * b) / (w + v) for a, b in zip(before, now)))
        pools.append(pool)
    _, x, y = np.array(pools).T
    return x, y
