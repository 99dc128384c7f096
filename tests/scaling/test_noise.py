"""Noise pooled over cells: the estimate, and above all how little it is trusted when cells share runs."""

import json
import math

import numpy as np
import pytest

from ditscale.scaling.noise import pooled_noise
from ditscale.scaling.status import Status


def runs_of(rng, families, seeds, checkpoints, luck, wobble):
    """Log-normal scores: a luck a run, a wobble a point; (score, cell, run)."""
    shape = (families, seeds, checkpoints)
    log = luck * rng.standard_normal((families, seeds, 1)) + wobble * rng.standard_normal(shape) + 3.0
    family, seed, checkpoint = np.indices(shape)
    return np.exp(log).ravel(), (family * 100 + checkpoint).ravel(), (family * 100 + seed).ravel()


def test_is_the_pooled_deviation_of_the_logarithms():
    noise = pooled_noise([10.0, 11.0, 20.0, 21.0, 19.0, 7.0], list("aabbbc"))
    parts = [np.log([10.0, 11.0]).var(ddof=1), 2 * np.log([20.0, 21.0, 19.0]).var(ddof=1)]
    assert noise.sigma == pytest.approx(math.sqrt(sum(parts) / 3)) and (noise.freedom, noise.cells) == (3, 2)
    assert noise.variation == pytest.approx(noise.sigma, rel=0.01) and noise.sigma in noise.interval


def test_checkpoints_of_the_same_runs_add_no_degrees_of_freedom():
    score, cells, runs = runs_of(np.random.default_rng(0), families=3, seeds=4, checkpoints=10, luck=0.02, wobble=0.0)
    assert pooled_noise(score, cells, runs).freedom == 3 * (4 - 1)
    assert pooled_noise(score, cells).freedom == 3 * 10 * (4 - 1)             # what it would be of runs of their own


@pytest.mark.parametrize("luck, wobble", [(0.02, 0.0), (0.02, 0.02), (0.0, 0.02)])
def test_finds_the_share_that_a_run_has_in_common(luck, wobble):
    found = [pooled_noise(*runs_of(np.random.default_rng(seed), 8, 4, 6, luck, wobble)) for seed in range(40)]
    assert np.mean([noise.luck_share for noise in found]) == pytest.approx(luck**2 / (luck**2 + wobble**2), abs=0.05)
    assert np.sqrt(np.mean([noise.sigma**2 for noise in found])) == pytest.approx(math.hypot(luck, wobble), rel=0.05)


def test_the_interval_of_sigma_covers():
    hits = sum(0.02 in pooled_noise(*runs_of(np.random.default_rng(seed), 4, 3, 5, 0.02, 0.0)).interval for seed in range(300))
    assert 0.92 <= hits / 300 <= 0.98


@pytest.mark.parametrize("score, cells, runs, status", [
    ([1.0, 2.0, 3.0], list("abc"), None, Status.ONE_SEED),
    ([1.0, 2.0], list("aa"), list("rr"), Status.ONE_SEED),
    ([1.0, -2.0, 3.0], list("aab"), None, Status.BAD_DATA),
])
def test_says_nothing_where_nothing_repeats(score, cells, runs, status):
    noise = pooled_noise(score, cells, runs)
    assert noise.status is status and math.isnan(noise.sigma) and noise.freedom == 0 and noise.interval is None
    assert json.loads(json.dumps(noise.card(), allow_nan=False))["sigma_of_ln_score"] is None
