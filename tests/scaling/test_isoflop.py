"""Approach 2 on noise-free surfaces has the known bias; the surface has none; waste is counted against the optimum."""

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.isoflop import approach2, compare_approaches, deadweight_compute, resampled_optima, valley_of
from ditscale.scaling.laws import Chinchilla

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
    assert not line.off_centre and len(line.valleys) == 5


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


def test_an_optimum_at_the_edge_is_told():
    law = Chinchilla(**HOFFMANN, alpha=0.34, beta=0.28)
    size, data, score = study(law)
    keep = size < 0.3 * np.repeat([law.optimal_size(c, 6.0) for c in BUDGETS], 15)
    line = approach2(size[keep], data[keep], score[keep])
    assert line is None or len(line.off_centre) >= 3
    assert not valley_of([1, 2, 3, 4], [4.0, 3.0, 2.2, 1.6], 1.0).centred
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
