"""KID, precision and recall, and the Inception Score against torch-fidelity and direct formulas; FD-infinity; the bootstrap."""

import numpy as np
import pytest
import torch

from ditscale.errors import UserError
from ditscale.evaluation.metrics.bootstrap import bootstrap_error
from ditscale.evaluation.metrics.frechet import frechet_distance
from ditscale.evaluation.metrics.inception_score import inception_score
from ditscale.evaluation.metrics.infinity import frechet_infinity
from ditscale.evaluation.metrics.kid import kid, squared_mmd
from ditscale.evaluation.metrics.moments import Moments, moments
from ditscale.evaluation.metrics.precision_recall import precision_recall


@pytest.fixture(scope="module")
def pair():
    """Two sets of features (600, 32) and (600, 32) float32 that differ a little, as a ReLU would give them."""
    rng = np.random.default_rng(0)
    return [np.maximum(rng.normal(size=(600, 32)) * scale + 0.2, 0).astype(np.float32) for scale in (1.0, 1.15)]


def test_mmd_equals_torch_fidelity(pair):
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = (part.astype(np.float64) for part in pair)
    options = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    truth = fidelity.kernel_mmd(x, y, **options)
    assert squared_mmd(*pair) == pytest.approx(truth, rel=1e-10)
    assert kid(*pair, subset=600) == (pytest.approx(truth, rel=1e-10), pytest.approx(np.nan, nan_ok=True))
    # subsets of torch-fidelity are other ones, so means agree within their errors
    theirs = fidelity.kid_features_to_metric(*map(torch.from_numpy, (x, y)), **options, kid_subsets=100, kid_subset_size=200,
                                             rng_seed=7, verbose=False)
    mean, std = kid(*pair, subset=200)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=5 * std / 10)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], rel=0.3)
    assert kid(*pair, subset=200) == (mean, std)


def test_mmd_of_sets_of_two_sizes():
    x, y = np.array([[1.0, 0], [0, 1], [1, 1]]), np.array([[2.0, 0], [0, 0]])
    kernel = lambda a, b: (a @ b / 2 + 1) ** 3
    within = np.mean([kernel(x[i], x[j]) for i in range(3) for j in range(3) if i != j]) + kernel(y[0], y[1])
    assert squared_mmd(x, y) == pytest.approx(within - 2 * np.mean([kernel(a, b) for a in x for b in y]))


def test_precision_and_recall_equal_torch_fidelity(pair, monkeypatch):
    fidelity = pytest.importorskip("torch_fidelity.metric_prc")
    samples, reference = pair[0][:400], pair[1]
    tensors = (torch.from_numpy(part).double() for part in (samples, reference))
    precision, recall = fidelity.calculate_precision_recall_full(*tensors)
    assert 0.3 < precision < 1 and 0.3 < recall < 1
    assert precision_recall(samples, reference) == pytest.approx((precision, recall), abs=1e-6)
    monkeypatch.setattr("ditscale.evaluation.metrics.precision_recall.BLOCK", 77)
    assert precision_recall(samples, reference) == pytest.approx((precision, recall), abs=1e-6)
    assert precision_recall(samples, reference, half=True) == pytest.approx((precision, recall), abs=0.02)
    assert precision_recall(1e4 * samples, 1e4 * reference, half=True) == pytest.approx((precision, recall), abs=0.005)


def test_half_precision_follows_the_rounding_of_adm(pair):
    """One row at a time in NumPy's fp16."""
    samples, reference = (part[:60].astype(np.float16) for part in pair)

    def squared(u, v):
        products = (u.astype(np.float32) @ v.astype(np.float32).T).astype(np.float16)
        norm = lambda w: (w.astype(np.float32) ** 2).sum(1).astype(np.float16)
        return np.maximum(norm(u)[:, None] - np.float16(2) * products + norm(v), np.float16(0))

    def radius(u):
        distances = squared(u, u).astype(np.float32)
        np.fill_diagonal(distances, np.inf)
        return np.sort(distances, axis=1)[:, 2]

    between = squared(samples, reference)
    truth = (between <= radius(reference)).any(1).mean(), (radius(samples) >= between.T).any(1).mean()
    assert precision_recall(pair[0][:60], pair[1][:60], half=True) == pytest.approx(truth, abs=0.04)


def test_samples_copied_from_the_reference():
    reference = np.random.default_rng(3).normal(size=(50, 8)).astype(np.float32) + 100
    assert precision_recall(reference, reference) == (1.0, 1.0)
    assert precision_recall(reference[[0, 0, 0, 0, 0]], reference) == (1.0, pytest.approx(0.02))


def test_inception_score_is_the_formula():
    logits = (3 * np.random.default_rng(0).normal(size=(1003, 20))).astype(np.float32)
    p = torch.from_numpy(logits).double().softmax(1)
    whole = (p * (p / p.mean(0)).log()).sum(1).mean().exp().item()
    assert inception_score(logits, splits=1)[0] == pytest.approx(whole, rel=1e-12)
    mean, std = inception_score(logits)
    scores = []
    for rows in np.array_split(p[np.random.default_rng(0).permutation(1003)], [1003 * split // 10 for split in range(1, 10)]):
        scores.append((rows * (rows / rows.mean(0)).log()).sum(1).mean().exp().item())
    assert (mean, std) == (pytest.approx(np.mean(scores), rel=1e-12), pytest.approx(np.std(scores), rel=1e-9))


def test_inception_score_of_sorted_classes():
    """Sure of its classes, in class order: the score is the number of classes, thanks to the shuffle."""
    logits = 200.0 * np.eye(10, dtype=np.float32)[np.arange(5000) // 500]
    assert inception_score(logits)[0] == pytest.approx(10, rel=0.02)


@pytest.fixture(scope="module")
def gaussians():
    """Samples (20000, 48) float32, and a reference with its true distance to them, in closed form: diagonal covariances."""
    rng = np.random.default_rng(5)
    deviations = np.linspace(0.1, 0.3, 48)
    samples = (rng.normal(size=(20000, 48)) * deviations).astype(np.float32)
    reference = Moments(None, np.full(48, 0.04), np.diag((deviations + 0.03) ** 2))
    return samples, reference, 48 * (0.04**2 + 0.03**2)


def test_infinity_removes_the_bias_of_the_count(gaussians):
    samples, reference, truth = gaussians
    fit = frechet_infinity(samples, reference)
    assert fit.value == pytest.approx(truth, rel=0.02)
    assert frechet_distance(moments(samples[:1000]), reference) > 1.1 * truth
    assert fit.slope > 0 and fit.r2 > 0.5 and len(fit.points) == 15 and fit.points[-1][0] == 20000
    assert frechet_infinity(samples, reference) == fit
    assert frechet_infinity(samples, reference, seed=1).points[0] != fit.points[0]


def test_infinity_at_128_dimensions():
    """The distance of 5,000 samples is a fifth too high, that of 50,000 is 2 %, FD-infinity less than 2 %."""
    deviation, truth = 0.152, 0.102943
    samples = (deviation * np.random.default_rng(0).normal(size=(50000, 128))).astype(np.float32)
    gap = (truth / 2 / 128) ** 0.5                                             # of each mean, and of each deviation
    reference = Moments(None, np.full(128, gap), np.eye(128) * (deviation + gap) ** 2)
    assert frechet_distance(moments(samples[:5000]), reference) == pytest.approx(1.19 * truth, rel=0.03)
    assert frechet_infinity(samples, reference).value == pytest.approx(truth, rel=0.02)


def test_bootstrap_error_is_the_spread_of_fresh_draws():
    rng = np.random.default_rng(0)
    reference = Moments(None, np.full(4, 0.5), np.eye(4))
    fresh = [frechet_distance(moments(rng.normal(size=(400, 4))), reference) for _ in range(200)]
    errors = [bootstrap_error(rng.normal(size=(400, 4)), reference, seed=seed) for seed in range(4)]
    assert np.mean(errors) == pytest.approx(np.std(fresh), rel=0.2)


@pytest.mark.parametrize("call, words", [
    (lambda f: frechet_infinity(f, None), "at least 128 samples; there are 40"),
    (lambda f: kid(f[:1], f), "at least 2 images"),
    (lambda f: precision_recall(f[:3], f), "more than 3 images"),
    (lambda f: inception_score(f[:9]), "at least 10 images"),
])
def test_too_few_images(call, words):
    with pytest.raises(UserError, match=words):
        call(np.zeros((40, 32), np.float32))
