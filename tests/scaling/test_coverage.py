"""Intervals and probabilities against made-up studies whose truth is known: ``benchmarks/coverage_multiplier.py``, counted."""

import pytest


@pytest.fixture(scope="module")
def made(benchmark_module):
    return benchmark_module("coverage_multiplier")


def test_multipliers_cover(made):
    found = made.multiplier_coverage(3, 0.02, 60)
    assert found["usable"] == 60 and all(found[name] >= 0.88 for name in ("overall", "middle target", "noise pooled"))


def test_bootstraps_do_not(made):
    found = made.multiplier_coverage(3, 0.02, 25, bootstraps=True)
    assert found["bootstrap of checkpoints"] < 0.8 and found["bootstrap of runs"] < 0.88 <= found["overall"]


def test_a_difference_that_is_not_there_is_rarely_real(made):
    assert made.multiplier_coverage(3, 0.02, 60, cheaper=1.0)["REAL"] <= 0.1


def test_frontiers_cover_and_sure_statements_are_true(made):
    found = made.frontier_coverage(3, 0.05, 40)
    assert 0.9 <= found["score at a cost"] <= 0.99
    assert found["the same, checkpoints as runs"] < found["score at a cost"]
    said, true = zip(*((float(key.split()[1]), float(value.split()[1])) for key, value in found.items() if key.startswith("said")))
    assert true == pytest.approx(said, abs=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("sigma", [0.01, 0.02, 0.05])
def test_multipliers_cover_500_times(made, seeds, sigma):
    found = made.multiplier_coverage(seeds, sigma, 500)
    assert all(0.92 <= found[name] <= 0.98 for name in ("overall", "middle target", "noise pooled")), found


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_harder_cases_cover_500_times(made, seeds):
    for found in (made.multiplier_coverage(seeds, 0.02, 500, made.made_sizes), made.multiplier_coverage(seeds, 0.01, 500, uneven=3.0),
                  made.multiplier_coverage(seeds, 0.02, 500, costs=1e4 * made.COSTS)):
        assert 0.92 <= found["overall"] <= 0.98, found


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_frontiers_cover_500_times(made, seeds):
    found = made.frontier_coverage(seeds, 0.02, 500)
    assert 0.92 <= found["score at a cost"] <= 0.98, found
    said, true = zip(*((float(key.split()[1]), float(value.split()[1])) for key, value in found.items() if key.startswith("said")))
    assert true == pytest.approx(said, abs=0.06)
