"""A run that is not where its data is: images need no data where the run keeps its manifest; else one line says what is missing."""

import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.data.manifest import manifest_path
from ditscale.rundir import read_lines

SMALL = {"evaluation.samples": 16, "evaluation.batch": 16, "data.path": "nowhere/train.beton", "evaluation.reference_path": "nowhere/heldout.beton",
         "evaluation.extractor_path": "nowhere/digits_cnn.safetensors"}


def ditscale(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def moved(hand_run):
    return hand_run(SMALL)


def test_what_is_missing_and_how_to_give_it(moved, digits):
    given = []
    for words, key, file in (("data.path of the run: nowhere/train.beton: no such file", "data.path", "train.beton"),
                             ("nowhere/digits_cnn.safetensors does not exist", "extractor_path", "digits_cnn.safetensors"),
                             ("reference_path nowhere/heldout.beton: no such file or folder", "reference_path", "heldout.beton")):
        result = ditscale("evaluate", moved.path, *given)
        assert result.exit_code == 2 and words in result.output and f"{key}=" in result.output and len(result.output.splitlines()) == 1
        given.append(f"{key}={digits / file}")
    result = ditscale("evaluate", moved.path, *given)
    assert result.exit_code == 0 and len(read_lines(moved.evals, "score")) == 1, result.output


def test_a_runs_own_manifest_will_do(moved, digits, tmp_path):
    assert ditscale("sample", moved.path, tmp_path / "a.npz", "--images", 4).exit_code == 2
    assert ditscale("sample", moved.path, tmp_path / "a.npz", "--images", 4, f"data.path={digits / 'train.beton'}").exit_code == 0
    shutil.copy(manifest_path(digits / "train.beton"), moved.manifest)
    assert ditscale("sample", moved.path, tmp_path / "b.npz", "--images", 4).exit_code == 0
    assert np.array_equal(*(np.load(tmp_path / name)["arr_0"] for name in ("a.npz", "b.npz")))


def test_latents_are_decoded_by_the_runs_own_manifest(hand_run, latent_values, vae_folders, latents, tmp_path):
    run = hand_run({"data.path": "nowhere/train.beton"})
    shutil.copy(manifest_path(latents), run.manifest)
    assert ditscale("sample", run.path, tmp_path / "a.npz", "--images", 2).exit_code == 0
    assert np.load(tmp_path / "a.npz")["arr_0"].shape == (2, 32, 32, 3)
    result = ditscale("sample", run.path, tmp_path / "b.npz", "--images", 2, f"vae={vae_folders['tiny']}")
    assert result.exit_code == 2 and "give that one" in result.output
