"""Power: the smallest difference between two groups of runs that a design will probably find REAL.

``found`` is the power of ``compare_scores``: Welch's interval on ln score must exclude zero on the side of the true difference. The two
spreads that it will meet are unknown beforehand, so its power is averaged over their distribution (chi-square) by quadrature, which
is exact for normal ln scores. ``multiplier_found`` is the power of ``multiplier``, whose verdict also has to hold over the whole range:
studies are drawn and judged by it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special
from scipy.optimize import brentq

from ditscale.errors import UserError
from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import MIN_SEEDS, REAL
from ditscale.scaling.interval import LEVEL
from ditscale.scaling.multiplier import multiplier

POWER = 0.8
NODES = 200                                                                    # quantiles of each chi-square
STUDIES = 200                                                                  # drawn for a multiplier: its power is known to 3 points
CLOSE = 0.04                                                                   # of ln multiplier: where its search ends


def found(difference: float, sigma: float, seeds: tuple[int, int]) -> float:
    """The probability that ``compare_scores`` finds a true difference of ln score REAL, with the right sign.

    Args:
        sigma: standard deviation of ln score among seeds, in both groups. seeds: runs of each group.

    Returns:
        0 with fewer than 3 seeds in a group, for which there is no interval.
    """
    _check(sigma, seeds)
    if min(seeds) < MIN_SEEDS:
        return 0.0
    half = _half_widths(seeds) * sigma
    return float(special.ndtr((abs(difference) - half) / (sigma * math.sqrt(sum(1 / n for n in seeds)))).mean())


def smallest(sigma: float, seeds: tuple[int, int], power: float = POWER) -> float:
    """The smallest difference of ln score that is found with this power; NaN with fewer than 3 seeds in a group."""
    _check(sigma, seeds)
    if not 0 < power < 1:
        raise UserError(f"power {power} must be above 0 and below 1; 0.8 is usual")
    if min(seeds) < MIN_SEEDS:
        return math.nan
    largest = sigma
    while found(largest, sigma, seeds) < power:
        largest *= 2
    return float(brentq(lambda difference: found(difference, sigma, seeds) - power, 0.0, largest, xtol=1e-6 * sigma))


def _check(sigma: float, seeds: tuple[int, int]) -> None:
    if not (math.isfinite(sigma) and sigma > 0):
        raise UserError(f"the noise of ln score is {sigma:g}; give a number above 0, for example 0.02 for 2 %")
    if min(seeds) < 1:
        raise UserError(f"seeds are {seeds[0]} and {seeds[1]}; give at least 1 each")


@lru_cache(maxsize=64)
def _half_widths(seeds: tuple[int, int]) -> np.ndarray:
    """Half of Welch's interval for sigma 1 over equally probable pairs of sample variances, ``(NODES, NODES)``."""
    shares = (np.arange(NODES) + 0.5) / NODES
    parts = [2 * special.gammaincinv((n - 1) / 2, shares) / (n - 1) / n for n in seeds]    # variance of each mean
    first, second = np.meshgrid(*parts, indexing="ij")
    freedom = (first + second) ** 2 / (first**2 / (seeds[0] - 1) + second**2 / (seeds[1] - 1))
    return special.stdtrit(freedom, 0.5 + LEVEL / 2) * np.sqrt(first + second)


@dataclass(frozen=True, eq=False)
class Course:
    """What the runs of one model are expected to look like: ln score falls by ``slope`` per unit of ln cost.

    Args:
        costs: of the checkpoints of a run, increasing. luck_share: of the variance of ln score, common to a run's checkpoints.
    """

    costs: np.ndarray
    sigma: float
    luck_share: float
    slope: float

    def drawn(self, name: str, seeds: int, gain: float, rng: np.random.Generator) -> Runs:
        """Runs that reach each score for exp(-gain) of the cost."""
        checkpoints = len(self.costs)
        luck, own = rng.standard_normal((seeds, 1)), rng.standard_normal((seeds, checkpoints))
        noise = self.sigma * (math.sqrt(self.luck_share) * luck + math.sqrt(1 - self.luck_share) * own)
        log_score = -self.slope * (np.log(self.costs / self.costs[0]) + gain) + noise
        runs = np.repeat([f"{name} {seed}" for seed in range(seeds)], checkpoints)
        return Runs(np.tile(self.costs, seeds), np.exp(log_score).ravel(), runs, name=name)


def multiplier_found(gain: float, course: Course, seeds: tuple[int, int], studies: int = STUDIES, seed: int = 0) -> float:
    """The share of drawn studies in which ``multiplier`` finds a true multiplier of exp(gain) REAL, on the right side of one.

    Args:
        studies: how many are drawn; the same ones for every gain.
    """
    hits = 0
    for number in range(studies):
        rng = np.random.default_rng((seed, number))
        pair = course.drawn("variant", seeds[0], gain, rng), course.drawn("other", seeds[1], 0.0, rng)
        overall = multiplier(*pair).overall
        hits += overall.verdict == REAL and (overall.value > 1) == (gain > 0)
    return hits / studies


def smallest_multiplier(course: Course, seeds: tuple[int, int], power: float = POWER, studies: int = STUDIES) -> float:
    """The smallest multiplier that is found with this power; NaN where none is: too few seeds or checkpoints."""
    if min(seeds) < MIN_SEEDS or len(course.costs) < 2:
        return math.nan
    def is_found(gain: float) -> bool:
        return multiplier_found(gain, course, seeds, studies) >= power

    span = 0.5 * math.log(course.costs[-1] / course.costs[0])                  # beyond it the two curves share too few scores
    low, high = 0.0, min(span, 1.2 * smallest(course.sigma, seeds, power) / course.slope)
    while not is_found(high):
        if high == span:
            return math.nan
        low, high = high, min(span, 1.5 * high)
    while high - low > CLOSE * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return math.exp(high)
