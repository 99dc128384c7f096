"""One multiplier with its interval: Student's t on the cost of each run, with Welch's degrees of freedom.

Runs are the repetitions. Several targets share their runs, so targets are averaged within each run before the spread is computed.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from ditscale.scaling.differences import INCONCLUSIVE, MIN_SEEDS, REAL, too_few, welch
from ditscale.scaling.interval import LEVEL, Interval
from ditscale.scaling.noise import Noise
from ditscale.scaling.reached import Reached
from ditscale.scaling.status import Status

FLAT = 0.1                     # |d ln score / d ln cost| below which a little noise in the score is a lot in the cost
NO_SEEDS = (0, 0)
EXACT = 1e-9                   # of ln CM: a smaller difference is rounding
Pair = tuple[Reached, Reached]                                                 # variant, baseline


@dataclass(frozen=True)
class Estimate:
    """A multiplier, above 1 if the variant is cheaper. ``sigma`` is the standard error of its logarithm.

    NaN, without an interval, if ``status`` is not CONVERGED; also without an interval if there are too few seeds.
    """

    value: float
    interval: Interval | None
    sigma: float
    freedom: float
    verdict: str
    reason: str
    seeds: tuple[int, int]                                                     # variant, baseline; the minimum over the models used
    status: Status = Status.CONVERGED


@dataclass(frozen=True)
class AtTarget(Estimate):
    """The multiplier at one score.

    ``slope`` is d ln score / d ln cost there, that of the flatter variant; ``delta_sigma`` is the standard error from the noise of the
    scores, CoV sqrt(1/n1 + 1/n2) / |slope|: a check on ``sigma``, far from it if a curve is bent or broken.
    """

    target: float = math.nan
    variant_cost: float = math.nan                                             # geometric mean over seeds
    baseline_cost: float = math.nan
    variant_model: str = ""
    baseline_model: str = ""
    slope: float = math.nan
    delta_sigma: float = math.nan

    @property
    def flat(self) -> bool:
        """Whether the curve is so flat that noise in the score decides."""
        return abs(self.slope) < FLAT


def estimate(pairs: list[Pair], noise: Noise | None) -> dict:
    """The fields of an ``Estimate`` for the mean of ln CM over targets, each given by the costs of the two variants."""
    variant, baseline = ([pair[i] for pair in pairs] for i in (0, 1))
    log_value = float(np.mean([b.log_cost for b in baseline]) - np.mean([v.log_cost for v in variant]))
    seeds = tuple(min(len(at.log_costs) for at in side) for side in (variant, baseline))
    if min(seeds) < MIN_SEEDS:
        return {"value": math.exp(log_value), "interval": None, "sigma": math.nan, "freedom": 0.0, "verdict": INCONCLUSIVE,
                "reason": too_few(min(seeds)), "seeds": seeds}
    if noise is None:
        _, sigma, freedom = contrast(pairs, np.full(len(pairs), 1 / len(pairs)))
    else:
        sigma, freedom = _delta_sigma(variant, baseline, noise.sigma), float(noise.freedom)
    half = special.stdtrit(freedom, 0.5 + LEVEL / 2) * sigma if sigma else 0.0
    interval = Interval(math.exp(log_value - half), math.exp(log_value + half))
    real = 1.0 not in interval and abs(log_value) > EXACT
    return {"value": math.exp(log_value), "interval": interval, "sigma": sigma, "freedom": freedom, "seeds": seeds,
            "verdict": REAL if real else INCONCLUSIVE, "reason": "the interval excludes one" if real else "the interval contains one"}


def at_target(target: float, pair: Pair, noise: Noise | None) -> AtTarget:
    """The multiplier at one score, or why there is none."""
    for side in pair:
        if not side.status.ok:
            return AtTarget(math.nan, None, math.nan, math.nan, INCONCLUSIVE, side.detail, NO_SEEDS, side.status, target)
    variant, baseline = pair
    own = math.hypot(*(side.sigma_of_level for side in pair)) / math.sqrt(2)
    delta = _delta_sigma([variant], [baseline], noise.sigma if noise else own)
    return AtTarget(**estimate([pair], noise), target=target, variant_cost=math.exp(variant.log_cost),
                    baseline_cost=math.exp(baseline.log_cost), variant_model=variant.model, baseline_model=baseline.model,
                    slope=max(variant.slope, baseline.slope), delta_sigma=delta)


def nothing(status: Status) -> Estimate:
    """No estimate, for the status's reason."""
    return Estimate(math.nan, None, math.nan, math.nan, INCONCLUSIVE, status.sentence, NO_SEEDS, status)


def contrast(pairs: list[Pair], weights: np.ndarray) -> tuple[float, float, float]:
    """The weighted sum of ln CM over targets, its standard error and the degrees of freedom; weights ``(targets,)``."""
    parts = [_by_model([pair[i] for pair in pairs], weights) for i in (0, 1)]
    value = sum(part.mean() for part in parts[1]) - sum(part.mean() for part in parts[0])
    return float(value), *welch([*parts[0], *parts[1]])


def _by_model(side: list[Reached], weights: np.ndarray) -> list[np.ndarray]:
    """For each model used, each run's contribution to the weighted sum of ln C over targets; shared runs are counted once."""
    parts: dict[str, np.ndarray] = {}
    for at, weight in zip(side, weights):
        parts[at.model] = parts.get(at.model, 0.0) + weight * at.log_costs
    return list(parts.values())


def _delta_sigma(variant: list[Reached], baseline: list[Reached], sigma: float) -> float:
    """The standard error of ln CM caused by noise ``sigma`` of ln score, if the error is shared by all checkpoints of a run."""
    variance = 0.0
    for side in (variant, baseline):
        weights: dict[str, float] = {}
        for at in side:
            weights[at.model] = weights.get(at.model, 0.0) + 1.0 / abs(at.slope) / len(side)
        runs = {at.model: len(at.log_costs) for at in side}
        variance += sum((sigma * weight) ** 2 / runs[model] for model, weight in weights.items())
    return math.sqrt(variance)
