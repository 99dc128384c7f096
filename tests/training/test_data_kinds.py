"""Training on latents and with flips: it runs, it stops and goes on bit for bit, and what cannot be is refused."""

import json

import numpy as np
import pytest

from ditscale.config import resolve
from ditscale.data.beton import write_beton
from ditscale.data.manifest import Manifest, write_manifest
from ditscale.errors import UserError
from ditscale.rundir import read_lines
from ditscale.studies.spec.inputs import _check_files
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import train

pytestmark = pytest.mark.usefixtures("in_repository")


@pytest.fixture
def in_repository(repository, monkeypatch):
    monkeypatch.chdir(repository)


@pytest.fixture(scope="session")
def latents(tmp_path_factory):
    """200 samples of random moments of 4 x 8 x 8 latents in 10 classes."""
    path = tmp_path_factory.mktemp("latents") / "train.beton"
    moments = np.random.default_rng(0).normal(size=(200, 2, 2, 4, 8, 8)).astype(np.float16)
    write_beton(path, {"moments": moments.view(np.int16), "label": np.arange(200) % 10})
    write_manifest(path, Manifest(
        name="random", split="train", samples=200, shape=[4, 8, 8], classes=10, class_counts=[20] * 10, source="a test",
        source_blake2b="", content_blake2b="", writer="numpy", ditscale_version="test", kind="latents",
        encoder={"class": "AutoencoderKL", "weights_sha256": "0" * 64,
                 "bits": "fp16", "scaling_factor": 0.5, "shift_factor": 0.1, "has_std": True}))
    return path


@pytest.fixture
def on_latents(digits_values, latents):
    """``make_run`` now trains on the latents."""
    digits_values["data"] |= {"name": "random", "path": str(latents), "channels": 4, "flip": True}
    del digits_values["evaluation"]


def stop_after(steps):
    calls = iter(range(1, 10**6))
    return lambda: next(calls) >= steps


def losses(run):
    return [line["loss/generative"] for line in read_lines(run.metrics)]


def check_that_it_resumes(make_run, world, changes):
    config, whole = make_run("whole", changes)
    assert train(config, whole, world)
    config, parts = make_run("parts", changes)
    assert not train(config, parts, world, stop=stop_after(3)) and train(config, parts, world)
    assert losses(parts) == losses(whole) and len(losses(whole)) == 10 and np.isfinite(losses(whole)).all()
    for name in ("masters", "optimizer", "ema"):
        first, second = (list_checkpoints(run)[-1] / f"{name}.safetensors" for run in (whole, parts))
        assert first.read_bytes() == second.read_bytes()
    return losses(whole)


def test_latents_train_and_resume(on_latents, make_run, world):
    drawn = check_that_it_resumes(make_run, world, {})
    config, run = make_run("scaled", {"data.latent_scale": 1.0, "train.images": 64, "train.checkpoint_every_images": 64})
    train(config, run, world)
    assert losses(run)[0] != drawn[0]                                          # the option reaches the model


def test_flipped_pixels_train_and_resume(make_run, world):
    flipped = check_that_it_resumes(make_run, world, {"data.flip": True})
    config, run = make_run("unflipped")
    train(config, run, world)
    assert losses(run) != flipped


def test_evaluation_of_latents_needs_their_autoencoder(digits_values, latents):
    digits_values["data"] |= {"path": str(latents), "channels": 4}
    with pytest.raises(UserError, match=f"{latents} holds latents, so samples must be decoded; give evaluation.vae"):
        _check_files(resolve(digits_values, "test"))
    digits_values["data"]["channels"] = 1
    with pytest.raises(UserError, match="holds latents of shape"):
        _check_files(resolve(digits_values, "test"))


def test_old_runs_keep_their_names(values):
    before = resolve(values, "x").science_hash()
    values["data"] |= {"flip": False, "latent_scale": None, "latent_shift": None}
    assert resolve(values, "x").science_hash() == before
    values["data"] |= {"latent_scale": [0.18215]}
    config = resolve(values, "x")
    assert config.science_hash() != before
    assert resolve(json.loads(json.dumps(config.model_dump(mode="json"))), "run.json") == config
    values["data"] |= {"latent_scale": 0.18215}
    assert resolve(values, "x").science_hash() == config.science_hash()
