"""From how many images on a smaller model is cheaper than a larger one of the same score, sampling included.

Two models reach a score at training costs C_small and C_large, and an image takes f_small < f_large to make. Their totals are equal after

    n = (C_small - C_large) / (f_large - f_small)

images; from there on the smaller one is cheaper, and where n is 0 or less it always is. The cost at the score is that of each run's monotone curve
(``curves``): nothing is extrapolated, so both models must have reached the score.

The interval is from draws of the two mean ln costs, each from Student's t over its model's runs: the noise of one model's costs says little of the
other's, whose curve may be flatter. Percentiles of resampled runs are much too narrow with three to five runs per model
(``benchmarks/coverage_break_even.py``; docs/frontiers.md has both).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ditscale.errors import UserError
from ditscale.scaling.curves import Runs
from ditscale.scaling.interval import Interval, percentiles
from ditscale.scaling.status import MIN_RUNS, Status

DRAWS = 4000


@dataclass(frozen=True)
class BreakEven:
    """``images`` from which on the smaller model is cheaper, at ``score``; 0 or less: always. NaN if ``status`` is not CONVERGED.

    ``costs`` are those of reaching the score, geometric means over each model's runs: smaller, larger. ``interval`` is None with fewer than three
    runs of either.
    """

    status: Status
    detail: str
    small: str
    large: str
    score: float = math.nan
    score_unit: str = "score"
    costs: tuple[float, float] = (math.nan, math.nan)
    runs: tuple[int, int] = (0, 0)
    images: float = math.nan
    interval: Interval | None = None

    @property
    def sentence(self) -> str:
        if not self.status.ok:
            return f"{self.small} against {self.large}: {self.status.because(self.detail)}"
        at = f"at a {self.score_unit} of {self.score:.3g}, {self.small}"
        if self.images <= 0:
            found = f"{at} is cheaper than {self.large} for any number of images"
        else:
            found = f"{at} is cheaper than {self.large} from {_in_words(self.images)} images on"
        return f"{found} ({self._evidence})"

    @property
    def _evidence(self) -> str:
        seeds = f"{self.runs[0]} and {self.runs[1]} runs"
        if self.interval is None:
            return f"{seeds}: no interval, INCONCLUSIVE"
        low, high = self.interval.low, self.interval.high
        if high <= 0:
            return f"REAL for any number, {seeds}"
        if low <= 0:
            return f"INCONCLUSIVE below {_in_words(high)} images, REAL from there on, {seeds}"
        return f"95 % interval {_in_words(low)} to {_in_words(high)}, {seeds}"

    def card(self) -> dict:
        """Ready for JSON."""
        known = self.status.ok
        return {"status": self.status.name, "sentence": self.sentence, "smaller": self.small, "larger": self.large,
                "score": self.score if known else None, "costs_to_score": list(self.costs) if known else None, "runs": list(self.runs),
                "images": self.images if known else None, "low": self.interval.low if self.interval else None,
                "high": self.interval.high if self.interval else None, "interval": "Student's t of each model's mean ln cost over its runs"}


def break_even(small: Runs, large: Runs, flops_per_image: tuple[float, float], *, score: float | None = None, score_unit: str = "score",
               seed: int = 0) -> BreakEven:
    """Compares two models; ``Runs.cost`` is of training, in the unit of ``flops_per_image``.

    Args:
        flops_per_image: of making one image: smaller model, larger model.
        score: at which costs are compared; default the best that every run of both has reached.
        seed: of the draws for the interval.

    Raises:
        UserError: the smaller model's images are not cheaper, or the score is not positive.
    """
    if not 0 < flops_per_image[0] < flops_per_image[1]:
        raise UserError(f"flops_per_image is {flops_per_image}: an image of the smaller model, given first, must take fewer FLOPs, and both more than 0")
    if score is not None and not score > 0:
        raise UserError(f"score is {score!r}; give a number above 0")
    facts: dict[str, Any] = {"small": small.name, "large": large.name, "score_unit": score_unit}
    if bad := small.first_bad() or large.first_bad():
        return BreakEven(Status.BAD_DATA, bad, **facts)
    curves = small.curves(), large.curves()
    both = [*curves[0], *curves[1]]
    sign = 1.0 if small.lower_is_better else -1.0
    level = max(curve.end for curve in both) if score is None else sign * math.log(score)
    logs = [np.array([float(curve.log_cost_at(level)) for curve in side]) for side in curves]
    at = math.exp(sign * level)
    if not all(np.isfinite(own).all() for own in logs):
        missed = next(curve.run for curve in both if not np.isfinite(curve.log_cost_at(level)))
        return BreakEven(Status.NO_COMMON_RANGE, f"run '{missed}' has no {score_unit} of {at:.3g}", **facts)
    difference = flops_per_image[1] - flops_per_image[0]
    costs = math.exp(logs[0].mean()), math.exp(logs[1].mean())
    return BreakEven(Status.CONVERGED, "", score=at, costs=costs, runs=(len(logs[0]), len(logs[1])), images=(costs[0] - costs[1]) / difference,
                     interval=_interval(logs, difference, seed), **facts)


def _interval(logs: list[np.ndarray], difference: float, seed: int) -> Interval | None:
    """Of the images, from the runs' ln costs of both models, ``(k,)`` each."""
    if min(map(len, logs)) < MIN_RUNS:
        return None
    rng = np.random.default_rng(seed)
    small, large = (own.mean() + own.std(ddof=1) / math.sqrt(len(own)) * rng.standard_t(len(own) - 1, DRAWS) for own in logs)
    return percentiles((np.exp(small) - np.exp(large)) / difference)


def _in_words(images: float) -> str:
    """To two digits: ``1,300``."""
    return f"{float(f'{images:.2g}'):,.0f}"
