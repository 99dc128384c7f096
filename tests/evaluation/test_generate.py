"""Samples do not depend on batch size or order; scores react as they should."""

import numpy as np
import torch

from ditscale.data.beton import BetonFile
from ditscale.diffusion.flow import Flow
from ditscale.diffusion.guidance import Guided
from ditscale.evaluation.extractors.digits_cnn import load_digits_cnn, train_digits_cnn
from ditscale.evaluation.frechet import frechet_distance
from ditscale.evaluation.generate import generate, to_uint8
from ditscale.evaluation.moments import moments
from ditscale.models.dit import create_model
from ditscale.training.checkpoint import file_sha256


def test_image_i_is_the_same_in_any_batch_and_order():
    model = create_model("DiT-atto/4", seed=0, input_size=8, in_channels=1, num_classes=10, learn_sigma=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    draw = lambda positions, batch: generate(Guided(model, 1.5, 10), Flow(), positions, image_shape=(1, 8, 8), classes=10, seed=4,
                                             sampler="heun", steps=3, batch=batch)
    images, labels = draw(torch.arange(24), 24)
    assert images.dtype is torch.uint8 and labels.tolist() == [i % 10 for i in range(24)]
    order = torch.randperm(24)
    again, _ = draw(order, 5)
    different = (again.int() - images[order].int()).abs()
    assert different.max() <= 1 and (different > 0).float().mean() < 0.01         # another batch shape may round another way
    assert len({tuple(image.flatten().tolist()) for image in images}) == 24


def test_quantisation_rule():
    assert to_uint8(torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]


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
