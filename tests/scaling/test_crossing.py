"""Where one curve overtakes another: exact on laws that cross, silent beyond what was measured."""

import numpy as np
import pytest

from ditscale.scaling.crossing import Order, overtaking

COSTS = np.geomspace(1e15, 1e19, 9)


def law(costs, a: float, alpha: float):
    return a * (np.asarray(costs) / 1e17) ** -alpha


def test_power_laws_cross_where_algebra_says():
    """20 c^-0.2 and 30 c^-0.5 are equal at c = 1.5^(1/0.3); straight lines in logarithms are exact for both."""
    found = overtaking(COSTS, law(COSTS, 20, 0.2), COSTS, law(COSTS, 30, 0.5))
    expected = 1e17 * 1.5 ** (1 / 0.3)
    assert found.order is Order.OVERTAKES and found.crossings == 1
    assert found.cost == pytest.approx(expected, rel=1e-9) and found.score == pytest.approx(law(expected, 20, 0.2), rel=1e-9)
    low, high = found.bracket
    assert low < expected < high and high / low == pytest.approx(10 ** 0.5)


def test_checkpoints_of_the_two_need_not_coincide():
    mine, other = np.geomspace(1e15, 1e19, 7), np.geomspace(3e15, 5e19, 11)
    found = overtaking(mine, law(mine, 20, 0.2), other, law(other, 30, 0.5))
    assert found.cost == pytest.approx(1e17 * 1.5 ** (1 / 0.3), rel=1e-9)
    assert found.shared == pytest.approx((3e15, 1e19))


def test_curved_training_curves_cross_within_the_bracket():
    """Curves with a floor are not straight: the answer is off by less than the checkpoints are apart, and says so."""
    costs = np.geomspace(1e16, 1e19, 13)
    slow, fast = 5 + law(costs, 20, 0.3), 2 + law(costs, 28, 0.4)
    fine = np.geomspace(1e16, 1e19, 200_001)
    true = fine[np.flatnonzero(2 + law(fine, 28, 0.4) < 5 + law(fine, 20, 0.3))[0]]
    found = overtaking(costs, slow, costs, fast)
    assert found.bracket[0] <= true <= found.bracket[1] and found.cost == pytest.approx(true, rel=0.05)


def test_the_last_of_several_crossings_and_their_number():
    found = overtaking([1, 2, 4, 8], [10, 10, 10, 10], [1, 2, 4, 8], [11, 9, 11, 9])
    assert found.order is Order.OVERTAKES and found.crossings == 3 and found.bracket == pytest.approx((4, 8))


@pytest.mark.parametrize("b, order", [(5.0, Order.BELOW), (50.0, Order.ABOVE)])
def test_curves_that_do_not_cross(b, order):
    found = overtaking(COSTS, law(COSTS, 20, 0.2), COSTS, law(COSTS, b, 0.2))
    assert found.order is order and found.cost is None and found.crossings == 0
    back = overtaking(COSTS, law(COSTS, 30, 0.5), COSTS, law(COSTS, 20, 0.2))
    assert back.order is Order.ABOVE and back.crossings == 1            # it was below, and lost it


def test_nothing_is_extrapolated():
    low, high = np.geomspace(1e15, 1e16, 4), np.geomspace(1e17, 1e18, 4)
    for pair in ((low, high), (high, low), ([8.9e9], [3.6e10])):
        found = overtaking(pair[0], law(pair[0], 20, 0.2), pair[1], law(pair[1], 30, 0.5))
        assert found.order is Order.NO_SHARED_COST and found.cost is None and found.shared is None


def test_order_of_points_does_not_matter_and_faults_are_named():
    turned = np.random.default_rng(0).permutation(len(COSTS))
    straight = overtaking(COSTS, law(COSTS, 20, 0.2), COSTS, law(COSTS, 30, 0.5))
    assert overtaking(COSTS[turned], law(COSTS, 20, 0.2)[turned], COSTS, law(COSTS, 30, 0.5)) == straight
    with pytest.raises(ValueError, match="the cost 2 twice"):
        overtaking([1, 2, 2], [3, 2, 2], [1, 2], [3, 2])
    with pytest.raises(ValueError, match="that is not positive"):
        overtaking([1, 2], [3, 0], [1, 2], [3, 2])
    with pytest.raises(ValueError, match="two flat arrays"):
        overtaking([1, 2], [3], [1, 2], [3, 2])
