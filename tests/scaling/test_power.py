"""Stated power against made-up studies that the verdicts' own code judges."""

import math

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.differences import REAL, compare_scores
from ditscale.scaling.multiplier import multiplier
from ditscale.scaling.power import Course, found, multiplier_found, smallest, smallest_multiplier

STUDIES, POINTS = 500, 0.05
SIGMA = 0.02


@pytest.mark.parametrize("seeds", [(3, 3), (3, 6), (5, 5), (12, 8)])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_a_difference_is_found_as_often_as_stated(seeds, power):
    difference = smallest(SIGMA, seeds, power)
    assert found(difference, SIGMA, seeds) == pytest.approx(power, abs=1e-4)
    rng = np.random.default_rng([*seeds, round(100 * power)])
    made_up = [compare_scores(np.exp(rng.normal(-difference, SIGMA, seeds[0])), np.exp(rng.normal(0, SIGMA, seeds[1]))) for _ in range(STUDIES)]
    assert abs(np.mean([one.verdict == REAL and one.change < 0 for one in made_up]) - power) < POINTS


def test_against_the_noncentral_t_with_known_freedom():
    """With many seeds Welch's freedom hardly varies, and power is that of the t test."""
    from scipy import stats

    seeds, difference = 60, 0.01
    shift, freedom = difference / (SIGMA * math.sqrt(2 / seeds)), 2 * seeds - 2
    exact = 1 - stats.nct.cdf(stats.t.ppf(0.975, freedom), freedom, shift)
    assert found(difference, SIGMA, (seeds, seeds)) == pytest.approx(exact, abs=2e-3)


def test_more_noise_or_fewer_seeds_need_a_larger_difference():
    assert smallest(2 * SIGMA, (3, 3)) == pytest.approx(2 * smallest(SIGMA, (3, 3)))
    assert smallest(SIGMA, (10, 10)) < smallest(SIGMA, (5, 5)) < smallest(SIGMA, (3, 5)) < smallest(SIGMA, (3, 3))
    assert found(0.0, SIGMA, (5, 5)) == pytest.approx(0.025, abs=5e-3)         # one side of 5 %


def test_two_seeds_find_nothing():
    assert math.isnan(smallest(SIGMA, (2, 5))) and found(10.0, SIGMA, (2, 5)) == 0
    assert math.isnan(smallest_multiplier(Course(np.array([1.0, 2.0]), SIGMA, 1.0, 0.4), (2, 2)))
    assert math.isnan(smallest_multiplier(Course(np.array([1.0]), SIGMA, 1.0, 0.4), (3, 3)))
    assert math.isnan(smallest_multiplier(Course(np.array([1.0, 1.01]), SIGMA, 1.0, 0.4), (3, 3), studies=20))    # too little range


@pytest.mark.parametrize("arguments", [(0.0, (3, 3)), (math.nan, (3, 3)), (0.02, (0, 3)), (0.02, (3, 3), 1.0)])
def test_what_is_wrong_is_refused(arguments):
    with pytest.raises(UserError):
        smallest(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("seeds, checkpoints, luck_share", [((3, 3), 4, 0.7), ((5, 5), 8, 0.4)])
def test_a_multiplier_is_found_as_often_as_stated(seeds, checkpoints, luck_share):
    """500 studies drawn by other code than the search's, with the same noise."""
    costs, slope = np.arange(1, checkpoints + 1) * 1e15, 0.4
    course = Course(costs, SIGMA, luck_share, slope)
    gain = math.log(smallest_multiplier(course, seeds))
    rng, hits = np.random.default_rng(5), 0
    for _ in range(STUDIES):
        pair = [made_up(course, name, count, shift, rng) for name, count, shift in (("variant", seeds[0], gain), ("baseline", seeds[1], 0.0))]
        overall = multiplier(*pair).overall
        hits += overall.verdict == REAL and overall.value > 1
    assert abs(hits / STUDIES - 0.8) < POINTS
    assert multiplier_found(0.0, course, seeds, studies=100) < 0.06


def made_up(course, name, seeds, gain, rng):
    from ditscale.scaling.curves import Runs

    rows = []
    for seed in range(seeds):
        luck = rng.normal(0, course.sigma * math.sqrt(course.luck_share))
        for cost in course.costs:
            own = rng.normal(0, course.sigma * math.sqrt(1 - course.luck_share))
            rows.append((cost, 30 * (cost * math.exp(gain) / 1e15) ** -course.slope * math.exp(luck + own), f"{name}-{seed}"))
    cost, score, runs = zip(*rows)
    return Runs(np.array(cost), np.array(score), np.array(runs), name=name)
