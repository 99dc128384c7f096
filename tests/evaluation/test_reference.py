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
    from PIL import Image

    from ditscale.data.beton import BetonFile

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
    (("stats.npz", "out.npz", "--extractor", "mine:Net"), "contains statistics"),
    (("one.npz", "out.npz", "--extractor", "mine:Net"), "at least 2"),
    (("one.npz", "out", "--extractor", "mine:Net"), "name it out.npz"),
    (("one.npz", "out.npz", "--extractor", "inception"), "needs the path of its weights"),
])
def test_wrong_use_of_the_command(words, said, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("one.npz", images[:1])
    np.savez("stats.npz", mu=np.zeros(3), sigma=np.eye(3))
    done = run(*words)
    assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output
    assert not (tmp_path / "out.npz").exists()


HALF = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
BAD_SIGMA = [(np.diag([1.0, -1.0, 1.0]), "variance 1 is -1, below 0"), (HALF * [[1, 3, 1], [3, 1, 1], [1, 1, 1]], "smallest eigenvalue is -0.5"),
             (HALF * [[1, 2, 1], [1, 1, 1], [1, 1, 1]], "asymmetric by up to 0.5"),
             (HALF * [[1, np.nan, 1], [1, 1, 1], [1, 1, 1]], "1 of the 9 numbers of sigma are not finite"),
             (HALF + np.inf, "of sigma are not finite"), (HALF.astype(complex), "sigma is complex128; real numbers are needed"),
             (HALF > 0, "sigma is bool"), (HALF.astype("U8"), "sigma is <U8")]


@pytest.mark.parametrize("sigma, words", BAD_SIGMA)
def test_a_covariance_that_is_none(sigma, words, extractor, tmp_path):
    with np.errstate(invalid="ignore"):
        np.savez(tmp_path / "stats.npz", mu=np.zeros(3), sigma=sigma)
    with pytest.raises(UserError, match=words):
        load_reference(tmp_path / "stats.npz", extractor)
    np.savez(tmp_path / "spatial.npz", mu=np.zeros(3), sigma=np.eye(3), mu_s=np.zeros(3), sigma_s=sigma)
    with pytest.raises(UserError, match=words.replace("sigma", "sigma_s")):
        load_reference(tmp_path / "spatial.npz", extractor)


@pytest.mark.parametrize("n, words", [(1, r"made of 1 image"), (0, "made of 0 image"), ([3, 4], "one integer"), ("many", "one integer"),
                                      (2.5, "one integer")])
def test_counts_of_images_that_are_none(n, words, extractor, tmp_path):
    np.savez(tmp_path / "stats.npz", mu=np.zeros(3), sigma=np.eye(3), n=np.array(n))
    with pytest.raises(UserError, match=words):
        load_reference(tmp_path / "stats.npz", extractor)


@pytest.mark.parametrize("kept", [np.float64, np.float32])
@pytest.mark.parametrize("rows", [20, 63, 64, 5000])
def test_covariances_of_real_features_are_taken(kept, rows, tmp_path):
    """Singular ones too, in both precisions, and of features whose scales lie far apart."""
    features = np.random.default_rng(0).normal(size=(rows, 64)) * np.logspace(-4, 3, 64) + 100
    np.savez(tmp_path / "stats.npz", mu=features.mean(0).astype(kept), sigma=np.cov(features.astype(kept), rowvar=False).astype(kept))
    assert read_statistics(tmp_path / "stats.npz").moments.dimensions == 64


def test_nothing_varies_and_still_it_is_a_covariance(tmp_path):
    np.savez(tmp_path / "stats.npz", mu=np.ones(3), sigma=np.zeros((3, 3)))
    assert (read_statistics(tmp_path / "stats.npz").moments.covariance == 0).all()


def score(*words):
    return CliRunner().invoke(main, ["evaluate", *map(str, words), "metric=fd_mine:Net"])


@pytest.mark.parametrize("count", [2, 4, 6, 15])
def test_a_few_images_get_the_strongest_warning(images, count, tmp_path):
    np.savez(tmp_path / "all.npz", images)
    np.savez(tmp_path / "few.npz", images[:count])
    done = score(tmp_path / "few.npz", f"reference_path={tmp_path / 'all.npz'}")
    assert done.exit_code == 0, done.output
    assert f"{count} images are too few: for 3 dimensions at least 15 are needed; the reference has 150" in done.stderr


def test_one_image_is_refused(images, tmp_path):
    np.savez(tmp_path / "all.npz", images)
    np.savez(tmp_path / "one.npz", images[:1])
    done = score(tmp_path / "one.npz", f"reference_path={tmp_path / 'all.npz'}")
    assert done.exit_code == 2 and "has 1 image; a score needs a covariance" in done.stderr and done.stderr.count("\n") == 1
    assert "at least 2" in score(tmp_path / "all.npz", f"reference_path={tmp_path / 'one.npz'}").stderr
    assert not list(tmp_path.glob("*.jsonl"))


def test_few_images_in_the_reference_are_said(images, tmp_path):
    np.savez(tmp_path / "all.npz", images)
    np.savez(tmp_path / "few.npz", images[:6])
    done = score(tmp_path / "all.npz", f"reference_path={tmp_path / 'few.npz'}")
    assert done.exit_code == 0 and "The reference has 6 images for 3 dimensions; at least 15 are needed" in done.stderr
    assert "6 images are too few for 3 dimensions: distances to it are too high" in \
        run(tmp_path / "few.npz", tmp_path / "o.npz", "--extractor", "mine:Net").stderr


def test_statistics_of_another_dimension_are_one_line(images, tmp_path):
    """A network of the user's own says its dimensions with its first batch."""
    np.savez(tmp_path / "all.npz", images)
    np.savez(tmp_path / "stats.npz", mu=np.zeros(5), sigma=np.eye(5))
    done = score(tmp_path / "all.npz", f"reference_path={tmp_path / 'stats.npz'}")
    assert done.exit_code == 2 and "its statistics have 5 features, but mine:Net makes 3" in done.stderr


@pytest.mark.parametrize("device", ["cuda:99", "cuda:0", "gpu", "meta", "cpu:x", ""])
def test_a_device_that_is_not_there(device, images, tmp_path):
    if device == "cuda:0" and torch.cuda.is_available():
        pytest.skip("this machine has it")
    np.savez(tmp_path / "images.npz", images)
    done = CliRunner().invoke(main, ["stats", str(tmp_path / "images.npz"), str(tmp_path / "o.npz"), "--extractor", "mine:Net", "--device", device])
    assert done.exit_code == 2 and f"--device {device}: cannot be used here" in done.stderr and done.stderr.count("\n") == 1
