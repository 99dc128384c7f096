"""Runs are resampled, never checkpoints, and the seed decides everything."""

import numpy as np
import pytest

from ditscale.scaling.bootstrap import bootstrap_runs
from ditscale.scaling.laws import PowerLaw
from ditscale.scaling.status import Status

LAW = PowerLaw(A=100.0, alpha=0.3)


def noisy_runs(runs: int, checkpoints: int, seed: int = 0):
    """Runs at random sizes, each with luck of its own that all its checkpoints share."""
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.uniform(0.0, 7.0, runs), checkpoints) + np.tile(np.linspace(0.0, 0.5, checkpoints), runs)
    luck = np.repeat(0.2 * rng.standard_normal(runs), checkpoints) + 0.01 * rng.standard_normal(runs * checkpoints)
    return np.exp(x), LAW.evaluate(np.exp(x)) * np.exp(luck), np.repeat(np.arange(runs), checkpoints)


def width(bootstrap) -> float:
    return bootstrap.coefficients["alpha"].high - bootstrap.coefficients["alpha"].low


def test_resampling_runs_is_wider_than_resampling_checkpoints():
    x, y, runs = noisy_runs(runs=12, checkpoints=10)
    by_run, by_checkpoint = bootstrap_runs(x, y, runs), bootstrap_runs(x, y, np.arange(len(x)))
    assert width(by_run) > 2.0 * width(by_checkpoint)                     # about sqrt(10)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    hits = 0
    for seed in range(60):
        x, y, runs = noisy_runs(runs=20, checkpoints=2, seed=seed)
        hits += LAW.alpha in bootstrap_runs(x, y, runs, resamples=300).coefficients["alpha"]
    assert 50 <= hits <= 60                                               # 57 expected; a little fewer with 20 runs


def test_seed_decides_and_order_does_not():
    x, y, runs = noisy_runs(runs=6, checkpoints=3)
    first, again, other = (bootstrap_runs(x, y, runs, seed=s) for s in (1, 1, 2))
    turned = bootstrap_runs(x[::-1], y[::-1], runs[::-1], seed=1)
    assert first.coefficients == again.coefficients != other.coefficients
    assert turned.coefficients["alpha"].low == pytest.approx(first.coefficients["alpha"].low, rel=1e-12)


def test_band_holds_the_law_and_widens_outward():
    x, y, runs = noisy_runs(runs=15, checkpoints=1)
    band = bootstrap_runs(x, y, runs, grid=np.geomspace(x.min(), x.max(), 9)).band
    assert band.x.shape == band.low.shape == band.high.shape == (9,)
    spread = np.log(band.high / band.low)
    assert spread[0] > spread[4] < spread[-1]


def test_three_runs_do_not_come_out_certain():
    """A resample that repeats a run is kept: dropping it would leave only the sample itself, with no width at all."""
    bootstrap = bootstrap_runs([1.0, 2.0, 4.0], [4.0, 2.5, 1.0])
    assert width(bootstrap) > 0.5
    assert 1600 < bootstrap.usable < 1950                                 # 8 of 9 resamples hold two distinct runs
    assert bootstrap.card()["usable"] == bootstrap.usable and bootstrap.card()["resamples"] == 2000


def test_refuses_under_three_runs():
    bootstrap = bootstrap_runs([1.0, 2.0, 4.0, 8.0], [4.0, 3.0, 2.0, 1.0], list("aabb"))
    assert bootstrap.status is Status.TOO_FEW_RUNS and "2 runs" in bootstrap.sentence
    assert not bootstrap.coefficients and bootstrap.band is None and bootstrap.usable == 0
