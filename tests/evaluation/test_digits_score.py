"""The digits' feature network: the same every time, and scores react as they should."""

import numpy as np
import torch

from ditscale.data.beton import BetonFile
from ditscale.digest import file_sha256
from ditscale.evaluation.extractors.digits_cnn import load_digits_cnn, train_digits_cnn
from ditscale.evaluation.metrics.frechet import frechet_distance
from ditscale.evaluation.metrics.moments import moments


def test_network_is_deterministic_and_good(digits, tmp_path):
    accuracy = train_digits_cnn(digits / "train.beton", digits / "heldout.beton", tmp_path / "again.safetensors")
    assert accuracy > 0.95
    assert file_sha256(tmp_path / "again.safetensors") == file_sha256(digits / "digits_cnn.safetensors")


def test_score_orders_degradations(digits):
    net = load_digits_cnn(digits / "digits_cnn.safetensors")
    train, heldout = BetonFile(digits / "train.beton"), BetonFile(digits / "heldout.beton")
    real = train.read("image", np.arange(train.num_samples))
    labels = train.read("label", np.arange(train.num_samples))
    features = lambda images: moments(net(torch.from_numpy(images)).pooled.numpy())
    reference = features(heldout.read("image", np.arange(heldout.num_samples)))
    noise = np.random.default_rng(0).normal(size=real.shape)
    noisy = lambda amount: np.clip(real + amount * 255 * noise, 0, 255).astype(np.uint8)
    scores = [frechet_distance(features(images), reference)
              for images in (real, noisy(0.1), noisy(0.3), np.clip(128 + 64 * noise, 0, 255).astype(np.uint8))]
    missing_class = frechet_distance(features(real[labels != 3]), reference)
    assert scores == sorted(scores) and scores[1] > 1.3 * scores[0] and missing_class > 2 * scores[0]
