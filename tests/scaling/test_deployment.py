"""The optimum of training and sampling against a numeric minimum; break-even numbers of images against arithmetic."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from ditscale.errors import UserError
from ditscale.scaling.break_even import break_even
from ditscale.scaling.curves import Runs
from ditscale.scaling.deployment import deployed, deployed_compute, deployed_optimum
from ditscale.scaling.fitting import fit
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.status import Status

LAW = Chinchilla(E=1.0, A=2000.0, B=50.0, alpha=0.35, beta=0.30)


def numeric(law: Chinchilla, compute: float, sampling: float, k: float) -> tuple[float, float]:
    """The lowest law along the budget, by a bounded search in ln N: D is what the budget leaves."""
    def score(log_n: float) -> float:
        data = compute / (k * math.exp(log_n)) - sampling / 3
        return law.A * math.exp(-law.alpha * log_n) + law.B * data**-law.beta if data > 0 else math.inf
    highest = math.log(3 * compute / (k * sampling)) if sampling else math.log(compute / k)
    grid = np.linspace(0.0, highest - 1e-9, 4001)
    best = int(np.argmin([score(x) for x in grid]))
    found = minimize_scalar(score, bounds=(grid[max(best - 1, 0)], grid[min(best + 1, 4000)]), method="bounded", options={"xatol": 1e-12})
    return math.exp(found.x), compute / (k * math.exp(found.x)) - sampling / 3


@pytest.mark.parametrize("sampling, size, data", [(0.0, 1.31e11, 2.55e7), (1e8, 4.28e10, 4.45e7), (1e9, 7.59e9, 1.06e8)])
def test_the_optimum_of_the_worked_example(sampling, size, data):
    found = deployed_optimum(LAW, 1e19, sampling)
    assert found[0] == pytest.approx(size, rel=4e-3) and found[1] == pytest.approx(data, rel=4e-3)


@pytest.mark.parametrize("k", [3.0, 6.0])
@pytest.mark.parametrize("sampling", [0.0, 1e5, 1e8, 1e9, 3e10])
def test_the_optimum_is_the_numeric_minimum(sampling, k):
    size, data = (float(value) for value in deployed_optimum(LAW, 1e19, sampling, k))
    least = numeric(LAW, 1e19, sampling, k)
    assert size == pytest.approx(least[0], rel=1e-5) and data == pytest.approx(least[1], rel=1e-5)
    assert float(deployed_compute(size, data, sampling, k)) == pytest.approx(1e19, rel=1e-12)
    ratio = LAW.alpha * LAW.A * size**-LAW.alpha / (LAW.beta * LAW.B * data**-LAW.beta)
    assert ratio == pytest.approx(1 + sampling / (3 * data), rel=1e-10)


def test_without_sampling_it_is_chinchillas_and_with_more_the_model_is_smaller():
    compute = np.geomspace(1e15, 1e24, 10)
    size, data = deployed_optimum(LAW, compute, 0.0, 6.0)
    np.testing.assert_allclose(size, LAW.optimal_size(compute, 6.0), rtol=1e-12)
    np.testing.assert_allclose(data, LAW.optimal_data(compute, 6.0), rtol=1e-12)
    size, data = deployed_optimum(LAW, 1e19, np.geomspace(1e4, 1e11, 30))
    assert (np.diff(size) < 0).all()
    assert (np.diff(3 * data / np.geomspace(1e4, 1e11, 30)) < 0).all()         # sampling's share of the compute grows


@pytest.mark.parametrize("arguments, words", [((LAW, -1.0, 0.0), "FLOPs above 0"), ((LAW, 1e19, -1.0), "0 or more"),
                                              ((Chinchilla(1, 2, 3, -0.1, 0.3), 1e19, 0.0), "alpha of the law is -0.1")])
def test_impossible_input_is_one_line(arguments, words):
    with pytest.raises(UserError, match=words) as told:
        deployed_optimum(*arguments)
    assert "\n" not in str(told.value)


def test_a_fitted_surface_has_intervals_over_runs():
    rng = np.random.default_rng(0)
    size, data = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e9, 1e11, 5), np.geomspace(1e6, 1e8, 5)))
    score = LAW.evaluate({"N": size, "D": data}) * np.exp(0.005 * rng.standard_normal(len(size)))
    surface = fit("chinchilla", {"N": size, "D": data}, score)
    found = deployed(surface, 1e19, 1e8, resamples=200)
    assert found.size_interval.low < found.size < found.size_interval.high and found.data_interval.low < found.data < found.data_interval.high
    assert found.size == pytest.approx(4.28e10, rel=0.3) and found.share == pytest.approx(1e8 / (3 * found.data + 1e8))
    assert deployed(surface, 1e19, 1e8, resamples=0).size_interval is None


def runs(name: str, cost_at_ten: float, seeds: int, spread: float = 0.0) -> Runs:
    """Scores 20 to 8 at costs proportional to score^-2; the cost at a score of 10 is as given, times e^(spread z)."""
    score = np.geomspace(20.0, 8.0, 7)
    z = np.random.default_rng(1).standard_normal(seeds)
    factors = np.exp(spread * (z - z.mean()))
    cost = np.concatenate([cost_at_ten * factor * (10.0 / score) ** 2 for factor in factors])
    return Runs(cost, np.tile(score, seeds), np.repeat([f"{name}-{i}" for i in range(seeds)], 7), name=name)


def test_break_even_is_arithmetic():
    found = break_even(runs("small", 5e15, 3), runs("large", 2e15, 3), (1e9, 4e9), score=10.0)
    assert found.images == pytest.approx((5e15 - 2e15) / 3e9, rel=1e-6) and found.score == pytest.approx(10.0)
    assert "from 1,000,000 images on" in found.sentence and "3 and 3 runs" in found.sentence
    assert found.costs == pytest.approx((5e15, 2e15), rel=1e-6)
    best = break_even(runs("small", 5e15, 3), runs("large", 2e15, 3), (1e9, 4e9))
    assert best.score == pytest.approx(8.0)


def test_break_even_says_what_the_runs_show():
    one = break_even(runs("small", 5e15, 1), runs("large", 2e15, 3), (1e9, 4e9), score=10.0)
    assert one.interval is None and "no interval, INCONCLUSIVE" in one.sentence
    spread = break_even(runs("small", 5e15, 3, 0.05), runs("large", 2e15, 3, 0.05), (1e9, 4e9), score=10.0)
    assert 0 < spread.interval.low < spread.images < spread.interval.high and "95 % interval" in spread.sentence
    close = break_even(runs("small", 2.05e15, 3, 0.05), runs("large", 2e15, 3, 0.05), (1e9, 4e9), score=10.0)
    assert close.interval.low < 0 < close.interval.high and "INCONCLUSIVE below" in close.sentence
    never = break_even(runs("small", 1e15, 3, 0.05), runs("large", 2e15, 3, 0.05), (1e9, 4e9), score=10.0)
    assert never.interval.high < 0 and "for any number of images (REAL for any number" in never.sentence
    assert close.card()["low"] == close.interval.low and close.card()["smaller"] == "small"


def test_a_score_that_a_run_lacks_is_a_status_and_bad_input_a_line():
    found = break_even(runs("small", 5e15, 2), runs("large", 2e15, 2), (1e9, 4e9), score=5.0)
    assert found.status is Status.NO_COMMON_RANGE and "small-0" in found.sentence and found.card()["images"] is None
    with pytest.raises(UserError, match="must take fewer FLOPs"):
        break_even(runs("small", 5e15, 2), runs("large", 2e15, 2), (4e9, 1e9))
    with pytest.raises(UserError, match="score is -1"):
        break_even(runs("small", 5e15, 2), runs("large", 2e15, 2), (1e9, 4e9), score=-1.0)
