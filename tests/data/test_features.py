"""Stored features: what the command writes, what a batch gets, and files that do not fit."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ditscale import randomness
from ditscale.cli import main
from ditscale.config import resolve
from ditscale.data.beton import BetonFile
from ditscale.data.features import FeatureFile, features_path, with_features
from ditscale.data.loader import StreamLoader
from ditscale.data.prepare import make_prepare
from ditscale.digest import file_sha256
from ditscale.errors import UserError
from ditscale.objectives.auxiliary.repa.cache import Asked, make_features
from ditscale.objectives.auxiliary.repa.encoder import make_encoder
from ditscale.objectives.auxiliary.stored import stored_features
from ditscale.objectives.from_config import feature_batches

CNN = "ditscale.evaluation.extractors.feature_maps:digits_cnn"
VIT = "ditscale.evaluation.extractors.feature_maps:timm_vit"
CPU = torch.device("cpu")


@pytest.fixture
def folder(digits, tmp_path):
    """The digits in a folder of their own, and the CNN's weights."""
    for name in ("train.beton", "train.json", "digits_cnn.safetensors"):
        shutil.copy(digits / name, tmp_path / name)
    return tmp_path


def asked(folder, name="cnn", **options):
    return Asked(name, CNN, {}, str(folder / "digits_cnn.safetensors"), **options)


def made(folder, **options):
    return make_features(folder / "train.beton", folder / "train.beton", asked(folder, **options), CPU, lambda line: None)


def ditscale(*arguments):
    return CliRunner().invoke(main, ["data", "features", *map(str, arguments)])


def test_the_command_writes_the_encoders_features_of_every_image_and_flip(folder):
    done = ditscale(folder / "train.beton", "--name", "cnn", "--encoder", CNN, "--encoder-path", folder / "digits_cnn.safetensors", "--flips")
    assert done.exit_code == 0 and "features of 1,437 images and of their flips, 16 x 64 each" in done.output, done.output
    file, facts = FeatureFile(folder / "train.beton", "cnn"), json.loads((folder / "train.cnn.features.json").read_text())
    images = torch.from_numpy(BetonFile(folder / "train.beton").read("image", np.arange(1437))).float() / 127.5 - 1
    encoder = make_encoder(CNN, str(folder / "digits_cnn.safetensors"), {})
    for flip, seen in ((0, images), (1, images.flip(-1))):
        expected = encoder(seen).half()
        assert np.allclose(file.array[:, flip], expected.numpy(), rtol=2e-3, atol=1e-4)
    assert facts["encoder_macs"] == 1787904 and facts["sha256"] == file_sha256(features_path(folder / "train.beton", "cnn"))
    again = ditscale(folder / "train.beton", "--name", "cnn", "--encoder", CNN)
    assert again.exit_code == 2 and "exists already; give another --name, or delete it" in again.output


def test_principal_components_are_those_of_a_singular_value_decomposition(folder):
    whole, few = made(folder), made(folder, name="few", pca=5)
    features = torch.from_numpy(FeatureFile(folder / "train.beton", "cnn").array[:, 0].astype(np.float64)).flatten(0, 1)
    centered = features - features.mean(0)
    _, sizes, axes = torch.linalg.svd(centered, full_matrices=False)
    assert few.pca["explained"] == pytest.approx(((sizes**2)[:5].sum() / (sizes**2).sum()).item(), rel=1e-3)
    stored = torch.from_numpy(FeatureFile(folder / "train.beton", "few").array[:, 0].astype(np.float64)).flatten(0, 1)
    products = centered @ axes[:5].T
    signs = (products * stored).sum(0).sign()
    assert torch.allclose(stored, products * signs, atol=2e-2 * products.abs().max().item())
    assert (whole.width, few.width, few.tokens) == (64, 5, 16)


def test_features_of_latents_come_from_their_pixels(latents, pixels, tmp_path):
    for name in (latents.name, latents.with_suffix(".json").name):
        shutil.copy(latents.with_name(name), tmp_path / f"latents{name[len('train'):]}")
    target, options = tmp_path / "latents.beton", Asked("vit", VIT, {"name": "vit_tiny_patch16_224", "size": 32})
    facts = make_features(target, pixels, options, CPU, lambda line: None)
    assert (facts.samples, facts.tokens, facts.width) == (45, 4, 192) and facts.content_blake2b != facts.images_blake2b
    encoder = make_encoder(VIT, None, options.encoder_options)
    images = torch.from_numpy(BetonFile(pixels).read("image", np.array([7, 3]))).float() / 127.5 - 1
    assert np.allclose(FeatureFile(target, "vit").rows(np.array([7, 3]), np.array([0, 0])), encoder(images).numpy(), rtol=5e-3, atol=5e-3)
    with pytest.raises(UserError, match="holds latents already; give the file of pixels"):
        make_features(target, target, options, CPU, lambda line: None)


def test_files_that_do_not_belong_together_are_refused(folder, pixels):
    done = ditscale(folder / "train.beton", "--of", pixels, "--name", "cnn", "--encoder", CNN)
    assert done.exit_code == 2 and "neither" in done.output and "give the pixels that it was made of with --of" in done.output
    assert not list(folder.glob("*.features*"))


@pytest.mark.parametrize("arguments, words", [
    (["--name", "a/b", "--encoder", CNN], "--name 'a/b': a name has letters, digits, _ and -"),
    (["--name", "a", "--encoder", "nowhere:at_all"], "error: --encoder nowhere:at_all: No module named 'nowhere'"),
    (["--name", "a", "--encoder", CNN, "--encoder-path", "nowhere.pt"], "error: --encoder-path nowhere.pt does not exist"),
    (["--name", "a", "--encoder", CNN, "--option", "depth=3"], "error: --encoder " + CNN + " with --option {'depth': 3}: TypeError"),
    (["--name", "a", "--encoder", VIT, "--option", "name=vit_tiny_patch16_224", "--option", "size=32", "--pca", "192"], "--pca 192: the encoder's features "
                                                                                                                       "have 192 numbers; give 1 to 191"),
    (["--name", "a", "--encoder", VIT, "--option", "size"], "'size' is not of the form key=value, for example size=224"),
])
def test_what_the_command_refuses(folder, arguments, words):
    done = ditscale(folder / "train.beton", *arguments)
    assert done.exit_code == 2 and words in done.output and "objective." not in done.output and not list(folder.glob("*.features*")), done.output


@pytest.mark.parametrize("flip", [False, True])
def test_a_batch_has_the_features_of_what_the_model_sees(folder, values, flip):
    """Of each image as it was flipped, on two ranks, from a later image on, in two epochs."""
    made(folder, flips=True)
    values["data"] |= {"path": str(folder / "train.beton"), "flip": flip}
    config, file = resolve(values, "test"), FeatureFile(folder / "train.beton", "cnn")
    prepare, encoder = make_prepare(config.data), make_encoder(CNN, str(folder / "digits_cnn.safetensors"), {})
    count = 0
    for rank in range(2):
        with StreamLoader(config.data.path, seed=3, global_batch=64, micro_batch=16, rank=rank, world_size=2, start_images=1344, end_images=1536,
                          backend="mmap") as loader:
            for raw, _, positions, features in with_features(loader, file, 3, flip):
                images = prepare(raw, randomness.draw(3, positions, prepare.streams))
                assert torch.allclose(features.float(), encoder(images), rtol=2e-3, atol=1e-4)
                count += len(positions)
    assert count == 192


def run_with(values, folder, **changes):
    values["data"] |= {"path": str(folder / "train.beton"), "flip": changes.pop("flip", False)}
    values["objective"] = {"name": "baseline", "with": [{"name": "repa", "features": "cnn", "feature_width": 64, **changes}]}
    return resolve(values, "test")


def stored(config):
    return stored_features(config.objective.auxiliary[0], config)


def test_features_that_do_not_fit_a_run(folder, values):
    with pytest.raises(UserError, match="objective.with repa: features cnn: .*train.cnn.features.json: no such file; `ditscale data features` makes it"):
        stored(run_with(values, folder))
    made(folder)
    assert stored(run_with(values, folder)).shape == (1437, 1, 16, 64)
    with pytest.raises(UserError, match="feature_width 32, but .* has features of 64 numbers"):
        stored(run_with(values, folder, feature_width=32))
    with pytest.raises(UserError, match="data.flip True needs features of the flips too.*--flips"):
        stored(run_with(values, folder, flip=True))
    plain = resolve({**values, "objective": {"name": "baseline"}}, "test")
    assert feature_batches("the loader", plain) == "the loader"


@pytest.mark.parametrize("change, words", [
    ({"content_blake2b": "0" * 64}, "features of another file .content 000000000000;"), ({"format": 99}, "has format 99; this ditscale reads"),
    ({"width": 63}, "damaged: it holds float16 .1437, 1, 16, 64., not float16 .1437, 1, 16, 63."), ({"sha256": None, "tokens": "16"}, "damaged"),
])
def test_a_note_that_does_not_fit_its_array(folder, change, words):
    made(folder)
    note = folder / "train.cnn.features.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), **change}))
    with pytest.raises(UserError, match=words):
        FeatureFile(folder / "train.beton", "cnn")


def test_damaged_files(folder):
    made(folder)
    array, note = (folder / f"train.cnn.features.{kind}" for kind in ("npy", "json"))
    whole = array.read_bytes()
    for damage in (whole[:100], whole[:-1000], b""):
        array.write_bytes(damage)
        with pytest.raises(UserError, match="train.cnn.features.npy: damaged"):
            FeatureFile(folder / "train.beton", "cnn")
    array.write_bytes(whole)
    for damage in ("{", "[]", "{}"):
        note.write_text(damage)
        with pytest.raises(UserError, match="train.cnn.features.json: damaged"):
            FeatureFile(folder / "train.beton", "cnn")
