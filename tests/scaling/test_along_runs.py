"""Checkpoints along runs: right laws are rarely doubted, bent ones are, and an interval beyond the data holds what comes."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.along_runs import Runs, halves, time_of
from ditscale.scaling.fitting import fit
from ditscale.scaling.status import Status

X = np.linspace(0.1, 1.0, 10)


@pytest.fixture(scope="module")
def made(benchmark_module):
    return benchmark_module("coverage_along_runs")


def seeds_of(share: float, runs: int = 5, luck: float = 0.015, own: float = 0.005, seed: int = 0):
    """x, y and run of ``runs`` seeds on a curve that flattens towards ``share`` of its score at x = 1."""
    rng = np.random.default_rng(seed)
    noise = luck * rng.standard_normal((runs, 1)) + own * rng.standard_normal((runs, len(X)))
    y = 18.0 * (share + (1.0 - share) * X**-0.6) * np.exp(noise)
    return np.tile(X, runs), y.ravel(), np.repeat(np.arange(runs), len(X))


def test_five_seeds_that_flatten_are_no_power_law_beyond_their_data():
    """Like the published case: predicted 11.4 (10.9 to 11.9), measured 14.5 at twice the data."""
    found = fit("power_law", *seeds_of(0.6))
    truth = 18.0 * (0.6 + 0.4 * 2.0**-0.6)
    assert found.law.evaluate(2.0) < 0.93 * truth
    assert found.status is Status.LACK_OF_FIT and found.lack_of_fit.p < 1e-6 and found.hold_out_in_time.failed
    assert found.hold_out_in_time.error < -0.04 < 0.04 < found.hold_out_in_time.rms and found.hold_out_in_time.times == pytest.approx(2.0)
    bands = found.intervals(at=[0.5, 1.0, 2.0, 4.0])
    assert np.isnan(bands.band.low).tolist() == [False, False, True, True] and "seeds explain" in bands.no_extension
    with pytest.raises(UserError, match="x = 2 is outside the data .* more than the seeds explain"):
        found.predict(2.0)
    assert found.predict([0.1, 1.0]).shape == (2,) and found.predict(2.0, extrapolate=True) > 0
    with pytest.raises(UserError, match="to = 2 is beyond the data"):
        found.plot(plt.figure().gca(), to=2.0)
    plt.close("all")
    json.dumps(found.card(bands), allow_nan=False)


def test_a_straight_law_stands_and_its_interval_widens_beyond_the_data():
    found = fit("power_law", *seeds_of(0.0, seed=2))
    assert found.status is Status.CONVERGED and not found.no_extension and found.lack_of_fit.p > 0.05
    inside, beyond = (np.log(b.high / b.low) for b in (found.intervals(at=[1.0]).band, found.intervals(at=[2.0, 4.0]).band))
    assert 1.2 * inside[0] < beyond[0] < beyond[1] < 0.3
    card = found.card(found.intervals(at=[2.0]))
    assert card["hold_out_in_time"]["rms_relative_error"] < 0.05 and card["no_extension"] is None
    assert card["interval"]["bend_beyond_the_data"]["c_low"] < 0.0 < card["interval"]["bend_beyond_the_data"]["c_high"]
    json.dumps(card, allow_nan=False)


def test_without_seeds_the_hold_out_in_time_decides():
    runs, ends = np.repeat(np.arange(5), 10), np.repeat(np.geomspace(0.2, 1.0, 5), 10)
    x = ends * np.tile(X, 5)
    luck = np.exp(0.01 * np.random.default_rng(0).standard_normal(5))[runs]
    straight, bent = fit("power_law", x, x**-0.6 * luck, runs), fit("power_law", x, (0.5 + 0.5 * x**-0.6) * luck, runs)
    assert straight.status is Status.CONVERGED and straight.lack_of_fit.p is None and "decides" in straight.lack_of_fit.reason
    assert straight.hold_out_in_time.p is None and straight.intervals().bend.unseen == 0.08
    assert bent.status is Status.FAILS_IN_TIME and bent.status.drawable and "no seeds: 4% is the limit" in bent.sentence
    assert np.isnan(bent.intervals(at=[2.0]).band.low[0])
    with pytest.raises(UserError, match="misses their ends"):
        bent.predict(2.0)


def test_what_is_held_out_in_time():
    t = np.array([1.0, 2, 3, 4, 6, 8, 5])
    early, end = halves(t, np.array(list("aaabbbc")))
    assert early.tolist() == [True, False, False, True, False, False, True] and end.tolist() == [False] * 5 + [True, False]
    early, _ = halves(t, np.array(list("aaabbbc")), by_count=True)
    assert early.tolist() == [True, False, False, True, False, False, True]
    groups = np.array(list("aabb"))
    assert time_of({"N": np.array([1.0, 1, 2, 2]), "D": np.array([1.0, 2, 1, 2])}, groups) == "D"
    assert time_of({"x": np.array([1.0, 1, 2, 2])}, groups) is None
    assert fit("power_law", [1, 2, 3, 4], [4, 3, 2, 1]).hold_out_in_time is None


def test_runs_without_a_first_half_or_an_end_beyond_it_have_no_hold_out_in_time():
    late = np.tile([0.7, 0.8, 0.9, 1.0], 3)                                   # no checkpoint before half of the end
    luck = np.exp(0.01 * np.random.default_rng(0).standard_normal(13))
    for x, runs in ((late, np.repeat(list("abc"), 4)), (np.append(late / 2, 5.0), np.array([*np.repeat(list("abc"), 4), "d"]))):
        found = fit("power_law", x, x**-0.5 * luck[:len(x)], runs)
        assert found.law is not None and found.hold_out_in_time is None
        json.dumps(found.card(found.intervals(at=[2.0])), allow_nan=False)
    x = np.append(np.tile(X, 3), 5.0)                                         # the last run is one point beyond all ends
    found = fit("power_law", x, x**-0.5 * np.tile(luck, 3)[:31], [*np.repeat(list("abc"), 10), "d"])
    assert found.law is not None and found.hold_out_in_time is None


def curves(rng, runs: int, sizes: int, luck: float, drift: float, own: float, misfit=0.0):
    """Residuals of a straight line through ``sizes`` families of runs with ten checkpoints: as ``Runs`` takes them."""
    log_x = np.log(X)
    root = np.linalg.cholesky(luck**2 + drift**2 * np.exp(-np.abs(log_x[:, None] - log_x)) + own**2 * np.eye(10))
    y = (rng.standard_normal((sizes * runs, 10)) @ root.T + misfit).ravel()
    x = (np.repeat(np.arange(1, sizes + 1), runs)[:, None] * X).ravel()
    law = np.column_stack([np.ones(len(x)), np.log(x)])
    return Runs({"x": x}, np.repeat(np.arange(sizes * runs), 10), y - law @ np.linalg.lstsq(law, y)[0], law)


@pytest.mark.parametrize("noise", [(0.02, 0.0, 0.005), (0.0, 0.02, 0.002), (0.01, 0.01, 0.01)])
@pytest.mark.parametrize("runs, sizes", [(3, 1), (5, 1), (3, 4)])
def test_the_tests_keep_their_size(noise, runs, sizes):
    """Of right laws 5 % have p < 0.05; 400 studies: one standard error is 1.1 %."""
    rng, far = np.random.default_rng(0), []
    for _ in range(400):
        made_up = curves(rng, runs, sizes, *noise)
        early, end = halves(np.exp(made_up.jacobian[:, 1]), made_up.run)
        far.append([made_up.lack_of_fit().p < 0.05, made_up.lack_of_fit().p < 0.01, made_up.end_miss(early, end)[0] < 0.05])
    any_misfit, told, in_time = np.mean(far, axis=0)
    assert any_misfit <= 0.09 and told <= 0.03 and in_time <= 0.08


def test_the_tests_have_power():
    rng, bend = np.random.default_rng(0), 0.02 * (np.log(X) + 1.0) ** 2
    found = [curves(rng, 5, 1, 0.02, 0.0, 0.005, bend).lack_of_fit().p < 0.01 for _ in range(50)]
    assert np.mean(found) > 0.9
    wiggle = 0.02 * (-1.0) ** np.arange(10)                                  # a zigzag that no smooth contrast sees
    assert np.mean([curves(rng, 5, 1, 0.02, 0.0, 0.005, wiggle).lack_of_fit().p < 0.01 for _ in range(50)]) > 0.9


@pytest.mark.parametrize("truth", ["power law", "slightly bent", "bent"])
@pytest.mark.parametrize("runs", ["5 seeds", "5 sizes, 1 seed"])
def test_what_is_measured_beyond_lies_inside(made, truth, runs):
    found = made.shares(truth, runs, tuple(made.NOISES), 12)
    assert found["no interval"] <= 0.27 if truth == "power law" else True     # 12 studies, 6 % expected
    held = [value for name, value in found.items() if name.startswith("holds") and value is not None]
    assert all(value >= 0.8 for value in held), found


@pytest.mark.slow
@pytest.mark.parametrize("truth", ["power law", "slightly bent", "bent"])
@pytest.mark.parametrize("runs", ["3 seeds", "5 seeds", "5 sizes, 1 seed"])
@pytest.mark.parametrize("noise", ["luck", "drift", "checkpoints"])
def test_200_times(made, truth, runs, noise):
    found = made.shares(truth, runs, (noise,), 200)
    assert truth != "power law" or found["no interval"] <= 0.12
    for name, value in found.items():
        given = 200 * (1 - found["no interval"])
        assert not name.startswith("holds") or value is None or value >= 0.95 - 3 * (0.05 * 0.95 / given) ** 0.5, (name, found)
