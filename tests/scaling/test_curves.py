"""One monotone curve per run: against scikit-learn's isotonic regression and known laws; nothing beyond its ends."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from ditscale.scaling.curves import Runs, falling, make_curve


@pytest.mark.parametrize("seed", range(5))
def test_pools_are_those_of_isotonic_regression(seed):
    rng = np.random.default_rng(seed)
    x, weights = np.sort(rng.uniform(0, 5, 30)), rng.integers(1, 4, 30).astype(float)
    y = -x + rng.standard_normal(30)
    expected = IsotonicRegression(increasing=False).fit(x, y, weights).predict(x)
    at, level = falling(x, y, weights)
    starts = np.flatnonzero(np.diff(expected, prepend=np.inf) < -1e-9)         # of each pool
    assert level == pytest.approx(expected[starts], rel=1e-12)
    assert (np.diff(level) < 0).all() and (np.diff(at) > 0).all()
    ends = [*starts[1:], len(x)]
    assert at == pytest.approx([np.average(x[a:b], weights=weights[a:b]) for a, b in zip(starts, ends)])


def test_a_power_law_is_followed_between_checkpoints_and_not_beyond():
    cost = np.geomspace(1e15, 1e19, 7)
    curve = make_curve(cost, 100 * (cost / 1e15) ** -0.25, "a", "", True)
    for target in (11.0, 37.0, 99.0):
        assert np.exp(curve.log_cost_at(np.log(target))) == pytest.approx(1e15 * (100 / target) ** 4, rel=1e-9)
    assert np.isnan(curve.log_cost_at(np.log([9.9, 100.1]))).all()
    assert np.isnan(curve.level_at(np.log(9e14))) and np.isnan(curve.level_at(np.log(1.1e19)))


def test_higher_may_be_better_and_order_does_not_matter():
    cost, recall = np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.1, 0.2, 0.4, 0.5])
    curve = make_curve(cost[::-1], recall[::-1], "a", "", False)
    assert np.exp(curve.log_cost_at(-np.log(0.2))) == pytest.approx(2.0) and curve.start > curve.end


def test_scores_at_one_cost_count_as_their_mean_and_one_checkpoint_is_a_point():
    curve = make_curve([1.0, 1.0, 2.0], [4.0, 9.0, 3.0], "a", "", True)
    assert np.exp(curve.level) == pytest.approx([6.0, 3.0])
    single = make_curve([2.0], [5.0], "a", "", True)
    assert single.log_cost_at(np.log(5.0)) == np.log(2.0) and np.isnan(single.log_cost_at(1.0))


def test_runs_are_told_apart_and_bad_values_named():
    runs = Runs([1, 2, 1, 2], [4, 3, 5, np.nan], ["b", "b", "a", "a"], models=["S", "S", "L", "L"])
    assert "y = nan of run 'a'" in runs.first_bad()
    good = Runs([1, 2, 1, 2], [4, 3, 5, 2], ["b", "b", "a", "a"], models=["S", "S", "L", "L"])
    assert [(curve.run, curve.model) for curve in good.curves()] == [("a", "L"), ("b", "S")] and good.first_bad() == ""
