"""The waste law: known laws, coverage of its interval, and data that do not bound it."""

import math

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.critical_batch import waste_law

BATCHES = np.array([16, 32, 64, 128, 256, 512])


def images(critical, sigma=0.0, seed=0, batches=BATCHES, least_steps=100.0):
    return least_steps * (batches + critical) * np.exp(sigma * np.random.default_rng(seed).standard_normal(len(batches)))


@pytest.mark.parametrize("critical", [20.0, 125.0, 900.0])
def test_an_exact_law_is_found(critical):
    law = waste_law(BATCHES, images(critical))
    assert law.critical == pytest.approx(critical, rel=1e-4) and law.least_steps == pytest.approx(100, rel=1e-4)
    assert law.images(BATCHES) == pytest.approx(images(critical), rel=1e-4) and law.waste(critical) == pytest.approx(2, rel=1e-4)
    assert law.critical in law.interval and law.interval.high / law.interval.low < 1.01


def test_the_interval_covers():
    """95 % of 400 sweeps of 12 runs with a noise of 4 %: 19 in 20 hold the truth."""
    twice = np.concatenate([BATCHES, BATCHES])
    laws = [waste_law(twice, images(125.0, 0.04, seed, twice)) for seed in range(400)]
    inside = np.mean([125.0 in law.interval for law in laws])
    assert 0.92 < inside < 0.98
    assert np.median([law.interval.high / law.interval.low for law in laws]) < 1.8
    assert np.median([law.sigma for law in laws]) == pytest.approx(0.04, rel=0.1)


def test_batches_far_below_do_not_bound_it_from_above():
    law = waste_law([2, 4, 8, 16], images(5000.0, 0.02, 1, np.array([2, 4, 8, 16])))
    assert law.reason or (law.interval.high == math.inf and law.interval.low > 16)


@pytest.mark.parametrize("values, words", [([100.0] * 6, "every batch is far below the critical one"), (BATCHES * 7.0, "steps do not fall")])
def test_no_law(values, words):
    law = waste_law(BATCHES, values)
    assert words in law.reason and math.isnan(law.critical)


def test_too_few_batches():
    assert waste_law([8, 8, 16], [100, 110, 120]).reason == "2 batch sizes; 3 are needed"


@pytest.mark.parametrize("batches, values", [([8, 16], [1.0]), ([0, 8, 16], [1, 2, 3]), ([8, 16, 32], [1, -2, 3])])
def test_refused(batches, values):
    with pytest.raises(UserError):
        waste_law(batches, values)
