"""The Frechet distance against scipy's matrix square root, and against closed forms."""

import numpy as np
import pytest
import scipy.linalg

from ditscale.evaluation.metrics.frechet import frechet_distance
from ditscale.evaluation.metrics.moments import Moments, moments


def by_sqrtm(a, b):
    gap = a.mean - b.mean
    return gap @ gap + np.trace(a.covariance + b.covariance - 2 * scipy.linalg.sqrtm(a.covariance @ b.covariance).real)


def test_equals_sqrtm():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(24, 24))
    a, b = moments(rng.normal(size=(400, 24)) @ mix), moments(rng.normal(size=(300, 24)) + 0.3)
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-8)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def test_closed_form_of_commuting_gaussians():
    a = Moments(10, np.zeros(3), np.diag([1.0, 4.0, 0.0]))
    b = Moments(10, np.array([1.0, 0, 2.0]), np.diag([9.0, 4.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(5 + (1 - 3) ** 2)


def test_fewer_samples_than_dimensions():
    """Singular covariances; the truth is the SVD of the centered cross-Gram."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 64)), 2 * rng.normal(size=(30, 64)) + 1
    centered_x, centered_y = ((f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (x, y))
    truth = ((x.mean(0) - y.mean(0)) ** 2).sum() + (centered_x**2).sum() + (centered_y**2).sum() \
        - 2 * np.linalg.svd(centered_x @ centered_y.T, compute_uv=False).sum()
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(truth, rel=1e-10)


def test_moments_are_numpys():
    features = np.random.default_rng(2).normal(size=(50, 5)).astype(np.float32) + 1000
    got = moments(features)
    assert np.allclose(got.mean, features.astype(np.float64).mean(0), rtol=1e-14)
    assert np.allclose(got.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-10)


def test_same_set_is_zero():
    a = moments(np.random.default_rng(3).normal(size=(100, 8)))
    assert abs(frechet_distance(a, a)) < 1e-10


def test_wide_singular_covariances():
    """512 dimensions, 200 rows, scales from 1 to 1e-6, and a feature that is always 0, as a dead ReLU's."""
    rng = np.random.default_rng(4)
    x, y = (rng.normal(size=(rows, 512)) * np.geomspace(1, 1e-6, 512) * (np.arange(512) != 7) for rows in (200, 250))
    centered_x, centered_y = ((f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (x, y))
    truth = ((x.mean(0) - y.mean(0)) ** 2).sum() + (centered_x**2).sum() + (centered_y**2).sum() \
        - 2 * np.linalg.svd(centered_x @ centered_y.T, compute_uv=False).sum()
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(truth, rel=1e-9)


def test_covariances_kept_in_float32():
    """Rounded, they have small negative eigenvalues; the distance moves no more than the rounding does."""
    rng = np.random.default_rng(5)
    a, b = (moments(rng.normal(size=(60, 128)) + shift) for shift in (0, 0.2))
    rounded = [Moments(m.count, m.mean, m.covariance.astype(np.float32).astype(np.float64)) for m in (a, b)]
    assert np.linalg.eigvalsh(rounded[0].covariance)[0] < -1e-9
    assert frechet_distance(*rounded) == pytest.approx(frechet_distance(a, b), rel=1e-3)


def test_no_spread_at_all():
    still, wide = Moments(5, np.zeros(3), np.zeros((3, 3))), Moments(5, np.ones(3), np.eye(3))
    assert frechet_distance(still, wide) == pytest.approx(6) and frechet_distance(still, still) == 0


def test_nan_features_give_nan():
    broken = moments(np.array([[1.0, np.nan], [0, 1], [2, 3]]))
    assert np.isnan(frechet_distance(broken, moments(np.eye(2))))
