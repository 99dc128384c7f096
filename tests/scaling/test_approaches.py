"""Approach 2 on noise-free surfaces has the known bias, Akima's curve a small one, the surface none; compute may be the study's own."""

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.approaches import akima_curve, approach2, compare_approaches, deadweight_compute, resampled_optima, valley_of
from ditscale.scaling.budgets import find_budgets
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.spending import Spending

BUDGETS = (1e17, 1e18, 1e19, 1e20, 1e21)
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7}


def study(law: Chinchilla, width: float = 16.0, sizes: int = 15, budgets=BUDGETS):
    """Noise-free: at each budget sizes from 1/width to width times the optimum, in equal steps of ln N."""
    factors = np.geomspace(1.0 / width, width, sizes)
    size = np.concatenate([law.optimal_size(c, 6.0) * factors for c in budgets])
    data = np.repeat(budgets, sizes) / (6.0 * size)
    return size, data, law.evaluate({"N": size, "D": data})


@pytest.mark.parametrize("alpha, beta, exponent, bias", [
    (0.31, 0.31, 0.5, 0.0), (0.34, 0.28, 0.28 / 0.62, 5.3743), (0.465, 0.155, 0.25, 30.0666)])
def test_approach_2_is_biased_where_the_exponents_differ(alpha, beta, exponent, bias):
    law = Chinchilla(**HOFFMANN, alpha=alpha, beta=beta)
    line = approach2(*study(law))
    assert line.exponent == pytest.approx(exponent, abs=1e-9)
    assert 100.0 * (line.size(1e24) / law.optimal_size(1e24, 6.0) - 1.0) == pytest.approx(bias, abs=1e-4)
    assert not line.off_center and len(line.valleys) == 5


def test_surface_beside_it_is_exact_and_shows_the_bias():
    law = Chinchilla(**HOFFMANN, alpha=0.34, beta=0.28)
    both = compare_approaches(*study(law), 1e24, resamples=0)
    assert both.size == pytest.approx(float(law.optimal_size(1e24, 6.0)), rel=1e-4)
    assert both.bias == pytest.approx(0.053743, abs=1e-4)
    assert both.surface.status.ok


def test_a_narrow_grid_has_less_bias_and_akima_follows_the_points():
    law = Chinchilla(**HOFFMANN, alpha=0.465, beta=0.155)
    wide, narrow = (approach2(*study(law, width=w)).size(1e24) / law.optimal_size(1e24, 6.0) - 1.0 for w in (16.0, 3.0))
    akima = approach2(*study(law), method="akima").size(1e24) / law.optimal_size(1e24, 6.0) - 1.0
    assert abs(narrow) < 0.2 * wide and abs(akima) < 0.2 * wide


@pytest.mark.parametrize("alpha, beta, bias", [(0.31, 0.31, 0.0), (0.34, 0.28, -0.30), (0.465, 0.155, -1.28)])
def test_akima_has_the_bias_that_docs_laws_states(alpha, beta, bias):
    """On the ladder of the parabolas' 0, 5.37 and 30.07 %; exact points, so it is of the spacing between sizes alone."""
    law = Chinchilla(**HOFFMANN, alpha=alpha, beta=beta)
    line = approach2(*study(law), method="akima")
    assert 100.0 * (line.size(1e24) / law.optimal_size(1e24, 6.0) - 1.0) == pytest.approx(bias, abs=0.01)
    assert line.exponent == pytest.approx(law.a, abs=1e-4) and line.method == "akima"


def test_akima_goes_through_the_means_of_the_seeds():
    sizes, scores = np.repeat([1.0, 2.0, 4.0, 8.0, 16.0], 2), np.array([4, 9, 2, 3, 1, 2, 2, 3, 4, 9], float)
    curve = akima_curve(sizes, scores)
    assert np.exp(curve(np.log([1.0, 4.0]))) == pytest.approx([6.0, 2.0**0.5])
    found = valley_of(sizes, scores, 1.0, "akima")
    assert found.size == pytest.approx(4.0) and found.score == pytest.approx(2.0**0.5) and found.centered
    with pytest.raises(UserError, match="'spline' is not one of parabola, akima"):
        approach2([1, 2], [1, 2], [1, 2], method="spline")


def test_budgets_do_not_chain():
    """Forty points 3 % apart reach from 1 to 3.2: no cluster is wider than stated, and every point is in one."""
    compute = 1e18 * 1.03 ** np.arange(40)
    found, dropped = find_budgets(compute)
    assert not dropped and sorted(np.concatenate([own.at for own in found])) == list(range(40))
    assert max(own.spread for own in found) <= 1.05 and 20 <= len(found) <= 22
    assert max(own.spread for own in find_budgets(compute, width=0.2)[0]) <= 1.2
    two = np.array([1.00, 1.01, 1.02, 1.055, 1.06, 1.075]) * 1e18              # from the left alone, 1.055 would join the first
    assert [list(own.at) for own in find_budgets(two)[0]] == [[0, 1, 2], [3, 4, 5]]


def test_stated_budgets_win_and_points_of_none_are_told():
    law = Chinchilla(**HOFFMANN, alpha=0.34, beta=0.28)
    size, data, score = study(law, width=4.0, sizes=7)
    off = data * np.resize([0.93, 1.0, 1.06], len(data))                       # clusters of 5 % would tear each budget in three
    score = law.evaluate({"N": size, "D": off})
    assert len(approach2(size, off, score).valleys) < 5 and sum(d.points for d in approach2(size, off, score).dropped) > 0
    of_point = np.repeat(BUDGETS, 7)
    by_point, by_list = approach2(size, off, score, budget=of_point), approach2(size, off, score, budgets=BUDGETS)
    assert by_point == by_list and [v.compute for v in by_point.valleys] == list(BUDGETS) and not by_point.dropped
    assert by_point.valleys[0].spread == pytest.approx(1.06 / 0.93) and by_point.exponent == pytest.approx(law.a, abs=0.01)
    fewer = approach2(size, off, score, budgets=BUDGETS[:-1])
    assert [(d.points, d.why) for d in fewer.dropped] == [(7, "more than 10 % from every stated budget")]
    assert approach2(size, off, score, budget=np.where(of_point == 1e17, np.nan, of_point)).dropped[0].why == "in no stated budget"


def test_budgets_with_too_few_sizes_are_told():
    law = Chinchilla(**HOFFMANN, alpha=0.34, beta=0.28)
    points = [np.concatenate([v, v[:2] if i != 1 else 2 * v[:2]]) for i, v in enumerate(study(law, width=4.0, sizes=7))]
    line = approach2(*points)
    assert [(d.points, d.sizes, d.why) for d in line.dropped] == [(2, 2, "fewer than 4 sizes")] and len(line.valleys) == 5
    none = approach2(*(v[:3] for v in points))
    assert not none.ok and np.isnan(none.exponent) and none.dropped[0].points == 3


def test_the_studys_own_compute_is_taken():
    """C = 30 N^0.8 D: embeddings weigh less as the size grows. Its optimum is found by brute force over ln N."""
    law, rule, rng = Chinchilla(**HOFFMANN, alpha=0.34, beta=0.28), Spending(30.0, 0.8, 1.0), np.random.default_rng(0)
    budgets, grid = (1e17, 1e18, 1e19, 1e20), np.geomspace(1e5, 1e13, 400_001)
    best = [grid[np.argmin(law.evaluate({"N": grid, "D": rule.data(grid, c)}))] for c in budgets]
    assert rule.optimal_size(law, budgets) == pytest.approx(best, rel=1e-4)
    size = np.concatenate([n * np.geomspace(1 / 3, 3, 9) for n in best])
    data = rule.data(size, np.repeat(budgets, 9))
    score, compute = law.evaluate({"N": size, "D": data}), rule.compute(size, data)
    line = approach2(size, data, score, compute=compute)
    assert (line.spending.p, line.spending.q, line.spending.k) == pytest.approx((0.8, 1.0, 30.0)) and line.spending.misfit < 1e-9
    assert line.exponent == pytest.approx(rule.exponent(law), abs=1e-3) and abs(line.exponent - law.a) > 0.04
    assert line.data(1e19) == pytest.approx(rule.data(line.size(1e19), 1e19))
    assert not approach2(size, data, score).valleys                            # 6 N D makes no budgets of these points
    both = compare_approaches(size, data, score, 1e21, own_compute=compute, resamples=0)
    assert both.size == pytest.approx(float(rule.optimal_size(law, 1e21)), rel=1e-3)
    assert 0.0 < both.bias < 0.02 and abs(both.akima_bias) < 0.01
    wild = approach2(size, data, score, compute=compute * np.exp(0.5 * rng.standard_normal(len(size))), budget=np.repeat(budgets, 9))
    assert wild.spending.misfit > 0.5 and not wild.spending.usable


def test_a_compute_that_is_6nd_is_told_as_such():
    law = Chinchilla(**HOFFMANN, alpha=0.34, beta=0.28)
    size, data, score = study(law)
    own = approach2(size, data, score, compute=6.0 * size * data)
    assert own.spending.formula == "6 N D" and own.exponent == pytest.approx(approach2(size, data, score).exponent, rel=1e-12)


@pytest.mark.parametrize("given, message", [
    ({"compute": [0.0] * 75}, "compute is 0 at index 0"),
    ({"compute": [1e17] * 3}, "budget must be as long|equal length"),
    ({"budgets": []}, "budgets is an empty list; leave it out"),
    ({"budgets": [1e17, -1]}, "budget is -1 at index 0"),
    ({"budget": [1e17] * 3}, "budget must be as long as the points, 75"),
    ({"budget": [1e17] * 75, "budgets": [1e17]}, "not both"),
    ({"width": 0.0}, "width 0.0 must be above 0"),
])
def test_budgets_that_mean_nothing_are_one_line(given, message):
    with pytest.raises(UserError, match=message):
        approach2(*study(Chinchilla(**HOFFMANN, alpha=0.34, beta=0.28)), **given)


def test_an_optimum_at_the_edge_is_told():
    law = Chinchilla(**HOFFMANN, alpha=0.34, beta=0.28)
    size, data, score = study(law)
    keep = size < 0.3 * np.repeat([law.optimal_size(c, 6.0) for c in BUDGETS], 15)
    line = approach2(size[keep], data[keep], score[keep])
    assert len(line.off_center) >= 3
    assert not valley_of([1, 2, 3, 4], [4.0, 3.0, 2.2, 1.6], 1.0).centered
    with pytest.raises(UserError, match="3 sizes"):
        valley_of([1, 2, 3], [3.0, 1.0, 3.0], 1.0)


def test_resampled_runs_give_an_interval_that_holds_the_optimum():
    law = Chinchilla(**HOFFMANN, alpha=0.34, beta=0.28)
    size, data, score = study(law, width=8.0, sizes=9)
    noisy = score * np.exp(0.003 * np.random.default_rng(0).standard_normal(len(score)))
    both = compare_approaches(size, data, noisy, 1e21, resamples=300)
    true = float(law.optimal_size(1e21, 6.0))
    assert true in both.size_interval and both.data_interval.low < both.data < both.data_interval.high
    assert both.size_interval.high / both.size_interval.low < 2.0
    assert len(resampled_optima(both.surface, 1e21, 6.0, 50, 0)) == 50


def test_deadweight_is_nothing_at_the_optimum_and_grows_away_from_it():
    law = Chinchilla(**HOFFMANN, alpha=0.34, beta=0.28)
    size = law.optimal_size(1e21, 6.0) * np.array([1.0, 2.0, 4.0])
    waste = deadweight_compute(law, size, 1e21 / (6.0 * size))
    assert waste[0] == pytest.approx(0.0, abs=1e21 * 1e-9) and 0 < waste[1] < waste[2] < 1e21
    assert law.compute_for(law.optimal_score(1e22, 6.0), 6.0) == pytest.approx(1e22, rel=1e-9)
    assert np.isnan(law.compute_for(1.6, 6.0))
