"""Distances of real images in a trained network: CIFAR-10 in ResNet-20's features. Skipped where the sample data is not there."""

import numpy as np
import pytest
import scipy.linalg
from PIL import Image, ImageFilter

from ditscale.evaluation.metrics.frechet import frechet_distance
from ditscale.evaluation.metrics.kid import kid
from ditscale.evaluation.metrics.moments import moments
from ditscale.evaluation.metrics.precision_recall import precision_recall


def blurred(images, radius):
    return np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
                     for image in images.transpose(0, 2, 3, 1)]).transpose(0, 3, 1, 2)


def noisy(images, deviation):
    noise = np.random.default_rng(0).normal(scale=deviation, size=images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def halves(cifar_features):
    """Features of two sets (500, 64) of other images, 50 of each class."""
    return cifar_features[0::2], cifar_features[1::2]


def test_equals_sqrtm_on_real_features(halves):
    a, b = map(moments, halves)
    gap = a.mean - b.mean
    truth = gap @ gap + np.trace(a.covariance + b.covariance - 2 * scipy.linalg.sqrtm(a.covariance @ b.covariance).real)
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-8)


def test_equals_the_cross_gram_of_few_real_images(halves):
    """20 images in 64 dimensions."""
    x, y = (half[::25].astype(np.float64) for half in halves)
    centered_x, centered_y = ((f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (x, y))
    truth = ((x.mean(0) - y.mean(0)) ** 2).sum() + (centered_x**2).sum() + (centered_y**2).sum() \
        - 2 * np.linalg.svd(centered_x @ centered_y.T, compute_uv=False).sum()
    assert moments(x).is_singular and frechet_distance(moments(x), moments(y)) == pytest.approx(truth, rel=1e-10)


def test_scores_order_degradations(cifar, halves, pooled):
    real, reference = halves
    images = cifar[0::2]
    distance = lambda features: frechet_distance(moments(features), moments(reference))
    floor = distance(real)
    assert floor < 1                                                           # the bias of twice 500 images: 2 x 165 / 500
    noise = [distance(pooled(noisy(images, deviation))) for deviation in (6, 32)]
    blur = [distance(pooled(blurred(images, radius))) for radius in (0.5, 1.5)]
    for worse in (noise, blur):
        assert [floor, *worse] == sorted([floor, *worse]) and worse[-1] > 5 * floor
    missing = np.delete(real, np.s_[150:200], axis=0)
    assert distance(missing) > 1.2 * floor
    assert kid(missing, reference)[0] > kid(real, reference)[0]
    assert precision_recall(pooled(noisy(images, 32)), reference)[0] < precision_recall(real, reference)[0] - 0.05


@pytest.mark.slow
def test_train_against_test_is_the_known_floor(whole_cifar, pooled):
    train, test = (moments(pooled(whole_cifar[split])) for split in ("train", "test"))
    assert 0.0125 < frechet_distance(test, train) < 0.019
