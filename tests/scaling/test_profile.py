"""The profile's intervals hold the truth as often as they say; the checkpoint bootstrap does not."""

import numpy as np
import pytest

from ditscale.scaling.fitting import fit
from ditscale.scaling.laws import PowerLaw


@pytest.fixture(scope="module")
def coverage(benchmark_module):
    return benchmark_module("coverage_laws").coverage


def test_power_law_agrees_with_the_textbook():
    """For a straight line in log-log the profile is Student's interval exactly."""
    from scipy import stats
    x = np.geomspace(1.0, 1e4, 10)
    y = PowerLaw(100.0, 0.3).evaluate(x) * np.exp(0.1 * np.random.default_rng(0).standard_normal(10))
    line = stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf(0.975, 8) * line.stderr
    alpha = fit("power_law", x, y).intervals().coefficients["alpha"]
    assert (alpha.low, alpha.high) == pytest.approx((-line.slope - half, -line.slope + half), abs=1e-5)
    amplitude = fit("power_law", x, y).intervals().coefficients["A"]
    half = stats.t.ppf(0.975, 8) * line.intercept_stderr
    assert np.log([amplitude.low, amplitude.high]) == pytest.approx([line.intercept - half, line.intercept + half], abs=1e-4)


def test_coverage_in_few_repetitions(coverage):
    shares = coverage("profile", 5, 1, 30)
    assert all(0.8 <= share <= 1.0 for share in shares.values()), shares         # 4 standard errors about 0.95


def test_checkpoints_drawn_one_by_one_promise_too_much(coverage):
    by_checkpoint, by_profile = coverage("checkpoints", 5, 4, 20), coverage("profile", 5, 4, 20)
    assert by_checkpoint["alpha"] <= 0.80 and by_checkpoint["E"] <= 0.80
    assert by_profile["alpha"] >= 0.84 and by_profile["E"] >= 0.84


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [5, 8])
def test_coverage_in_500_repetitions(coverage, sizes):
    shares = coverage("profile", sizes, 1, 500)
    assert all(0.92 <= share <= 0.98 for share in shares.values()), shares


def test_an_end_the_data_leave_open_is_told():
    x = np.repeat(np.geomspace(1.0, 30.0, 5), 3)
    y = 50.0 * x**-0.2 * np.exp(0.03 * np.random.default_rng(3).standard_normal(15))
    floor = fit("power_law_floor", x, y).intervals().coefficients["E"]
    assert floor.low == 0.0 and floor.high > 10.0


def test_two_runs_more_than_coefficients_or_nothing():
    x = np.array([1.0, 10.0, 100.0])
    assert fit("power_law", x, [9.0, 5.0, 3.1]).intervals().freedom == 1
    assert fit("power_law", np.tile(x, 2), [9.0, 5.0, 3.1, 9.1, 5.1, 3.0], list("aaabbb")).intervals().status.name == "TOO_FEW_RUNS"
