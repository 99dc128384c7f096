"""References: statistics of every tool's form, computed, written and read; ``ditscale stats``; statistics of other features."""

import dataclasses
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from ditscale.cli import main
from ditscale.errors import UserError
from ditscale.evaluation.extractors import Features
from ditscale.evaluation.extractors.make import make_extractor
from ditscale.evaluation.reference import load_reference, read_statistics, write_statistics


class Net(nn.Module):
    """Pooled: the mean of each channel; spatial: the left column's."""

    def forward(self, images):
        images = images.float()
        return Features(images.mean((2, 3)), spatial=images[..., 0].mean(2))


class Other(Net):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    module = ModuleType("mine")
    module.Net, module.Other = Net, Other
    monkeypatch.setitem(sys.modules, "mine", module)


@pytest.fixture(scope="module")
def images():
    """(150, 6, 5, 3) uint8, as ADM stores them."""
    return np.random.default_rng(0).integers(0, 256, (150, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def extractor():
    return make_extractor("mine:Net")


def truth(images):
    pooled, spatial = images.astype(np.float64).mean((1, 2)), images[:, :, 0].astype(np.float64).mean(1)
    return pooled.mean(0), np.cov(pooled, rowvar=False), spatial.mean(0), np.cov(spatial, rowvar=False)


def test_computed_written_and_read(images, extractor, tmp_path):
    np.savez(tmp_path / "images.npz", images)
    seen = []
    reference = load_reference(tmp_path / "images.npz", extractor, advance=seen.append)
    assert sum(seen) == 150 == reference.samples == reference.images.count
    got = [part for m in (reference.moments, reference.spatial_moments) for part in (m.mean, m.covariance)]
    assert all(np.allclose(a, b, rtol=1e-4) for a, b in zip(got, truth(images)))

    write_statistics(tmp_path / "new" / "stats.npz", reference)
    again = load_reference(tmp_path / "new" / "stats.npz", extractor)
    assert (again.moments.mean == reference.moments.mean).all()
    assert (again.moments.covariance == reference.moments.covariance).all()
    assert (again.spatial_moments.covariance == reference.spatial_moments.covariance).all()
    assert (again.samples, again.moments.count, again.extractor, again.extractor_sha256, again.resize, again.images) == \
        (150, 150, "mine:Net", extractor.sha256, "its own", None)


def test_statistics_win_over_the_images_beside_them(images, extractor, tmp_path):
    """ADM's VIRTUAL files: arr_0 is for precision and recall alone."""
    np.savez(tmp_path / "virtual.npz", arr_0=images, mu=np.arange(3.0), sigma=np.eye(3), mu_s=np.ones(4), sigma_s=2 * np.eye(4))
    reference = load_reference(tmp_path / "virtual.npz", extractor)
    assert (reference.moments.mean == np.arange(3)).all() and (reference.spatial_moments.covariance == 2 * np.eye(4)).all()
    assert reference.samples is None and reference.moments.count is None and not reference.moments.is_singular
    assert (next(reference.images.batches(150)) == images.transpose(0, 3, 1, 2)).all()


def test_pytorch_fids_file(tmp_path):
    np.savez_compressed(tmp_path / "stats.npz", mu=np.arange(3, dtype=np.float32), sigma=np.eye(3, dtype=np.float32))
    reference = read_statistics(tmp_path / "stats.npz")
    assert reference.moments.mean.dtype == np.float64 and reference.spatial_moments is None
    assert reference.extractor is reference.extractor_sha256 is reference.images is None


def test_statistics_of_other_features(images, extractor, tmp_path):
    np.savez(tmp_path / "images.npz", images)
    write_statistics(tmp_path / "stats.npz", load_reference(tmp_path / "images.npz", extractor))
    other = make_extractor("mine:Other")
    with pytest.raises(UserError) as error:
        load_reference(tmp_path / "stats.npz", other)
    assert extractor.sha256 in str(error.value) and other.sha256 in str(error.value)
    np.savez(tmp_path / "mu.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(UserError, match="5 dimensions, but mine:Net has 3"):
        load_reference(tmp_path / "mu.npz", dataclasses.replace(extractor, dimensions=3))


@pytest.mark.parametrize("arrays, words", [
    ({"mu": np.zeros(3)}, "no array sigma"),
    ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"\(D,\) and \(D, D\)"),
    ({"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.zeros(3)}, "no array sigma_s"),
    ({"mu": np.zeros(3), "sigma": np.array([None])}, "no statistics can be read"),
])
def test_wrong_statistics(arrays, words, extractor, tmp_path):
    np.savez(tmp_path / "stats.npz", **arrays)
    with pytest.raises(UserError, match=words):
        load_reference(tmp_path / "stats.npz", extractor)


def run(*words):
    return CliRunner().invoke(main, ["stats", *map(str, words), "--device", "cpu"])


def test_the_command(images, extractor, tmp_path):
    np.savez(tmp_path / "images.npz", images)
    done = run(tmp_path / "images.npz", tmp_path / "out.npz", "--extractor", "mine:Net")
    assert done.exit_code == 0, done.output
    assert "150 images, 3 dimensions" in done.stdout and extractor.sha256 in done.stdout and "warning" not in done.output
    assert np.allclose(np.load(tmp_path / "out.npz")["sigma"], truth(images)[1], rtol=1e-4)


def test_the_command_warns_of_a_singular_covariance(digits, images, tmp_path):
    np.savez(tmp_path / "few.npz", images[:20, ..., :1])
    weights = digits / "digits_cnn.safetensors"
    done = run(tmp_path / "few.npz", tmp_path / "out.npz", "--extractor", "digits_cnn", "--weights", weights)
    assert done.exit_code == 0 and "20 images are too few for 64 dimensions" in done.stderr


def test_the_command_takes_class_folders_and_splits(digits, tmp_path):
    from ditscale.data.beton import BetonFile
    from PIL import Image

    pixels = BetonFile(digits / "heldout.beton").read("image", np.arange(100))
    for number, image in enumerate(pixels):
        path = tmp_path / "source" / ("train", "test")[number % 2] / "digits" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    options = ("--extractor", "digits_cnn", "--weights", digits / "digits_cnn.safetensors")
    assert "choose one with --split" in run(tmp_path / "source", tmp_path / "out.npz", *options).output
    assert "50 images" in run(tmp_path / "source", tmp_path / "out.npz", "--split", "test", *options).stdout
    np.savez(tmp_path / "odd.npz", pixels[1::2].transpose(0, 2, 3, 1))
    assert run(tmp_path / "odd.npz", tmp_path / "odd_out.npz", *options).exit_code == 0
    assert (np.load(tmp_path / "out.npz")["mu"] == np.load(tmp_path / "odd_out.npz")["mu"]).all()


@pytest.mark.parametrize("words, said", [
    (("none.npz", "out.npz", "--extractor", "mine:Net"), "no such file"),
    (("stats.npz", "out.npz", "--extractor", "mine:Net"), "holds statistics already"),
    (("one.npz", "out.npz", "--extractor", "mine:Net"), "at least 2"),
    (("one.npz", "out", "--extractor", "mine:Net"), "call it out.npz"),
    (("one.npz", "out.npz", "--extractor", "inception"), "needs the path of its weights"),
])
def test_wrong_use_of_the_command(words, said, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("one.npz", images[:1])
    np.savez("stats.npz", mu=np.zeros(3), sigma=np.eye(3))
    done = run(*words)
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output
    assert not (tmp_path / "out.npz").exists()
