"""Latent files: what they hold, from any number of ranks, after any stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ditscale.data import encode as encode_module
from ditscale.data.beton import BetonFile, write_beton
from ditscale.data.encode import encode
from ditscale.data.latents import from_bits, to_bits
from ditscale.data.manifest import Manifest, content_blake2b, read_manifest, stored_blake2b, write_manifest
from ditscale.data.vae import load_vae
from ditscale.errors import UserError


def quiet(line):
    pass


@pytest.fixture
def kl(vae_folders):
    return load_vae(vae_folders["kl"], "cpu")


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of two micro batches of 4."""
    monkeypatch.setattr(encode_module, "PART_IMAGES", 8)


def stored_moments(path, count=45):
    file = BetonFile(path)
    return from_bits(torch.from_numpy(file.read("moments", np.arange(count))), read_manifest(path).encoder["bits"])


def test_holds_the_encoders_moments_of_image_and_flip(pixels, latents, vae_folders):
    import diffusers

    source, file = BetonFile(pixels), BetonFile(latents)
    assert file.fields["moments"].shape == (2, 2, 4, 4, 4) and file.fields["moments"].dtype == np.int16
    assert (file.read("label", np.arange(45)) == np.arange(45) % 5).all()
    model = diffusers.AutoencoderKL.from_pretrained(vae_folders["kl"]).eval()
    images = torch.from_numpy(source.read("image", np.arange(45))).float() / 127.5 - 1
    with torch.inference_mode():
        both = [model.encode(x).latent_dist for x in (images, images.flip(-1))]
        expected = torch.stack([torch.stack([one.mean, one.std], dim=1) for one in both], dim=1)
    assert torch.allclose(stored_moments(latents), expected, rtol=2**-10, atol=1e-5)
    assert not torch.equal(expected[:, 0], expected[:, 1]) and (expected[:, :, 1] > 0).all()


def test_the_manifest_says_what_made_them(pixels, latents):
    manifest, source = read_manifest(latents), read_manifest(pixels)
    assert manifest.kind == "latents" and manifest.shape == [4, 4, 4] and manifest.class_names == source.class_names
    assert manifest.pixels["content_blake2b"] == source.content_blake2b and manifest.samples == 45
    assert manifest.content_blake2b == stored_blake2b(BetonFile(latents), "moments")
    encoder = manifest.encoder
    assert (encoder["class"], encoder["bits"], encoder["batch"], encoder["has_std"]) == ("AutoencoderKL", "fp16", 4, True)
    assert (encoder["scaling_factor"], encoder["shift_factor"]) == (0.18215, 0.25)
    assert len(encoder["weights_sha256"]) == len(encoder["config_sha256"]) == 64
    assert sorted(os.listdir(latents.parent)) == ["train.beton", "train.json"]       # no parts are left


def test_an_encoder_without_std(pixels, vae_folders, tmp_path):
    encode(pixels, tmp_path / "x.beton", load_vae(vae_folders["tiny"], "cpu"), bits="bf16", say=quiet)
    moments = stored_moments(tmp_path / "x.beton")
    assert moments.shape == (45, 2, 1, 4, 4, 4) and moments.std() > 0
    encoder = read_manifest(tmp_path / "x.beton").encoder
    assert (encoder["class"], encoder["has_std"], encoder["scaling_factor"]) == ("AutoencoderTiny", False, 1.0)


@pytest.mark.parametrize("bits, digits", [("fp16", 2**-11), ("bf16", 2**-8)])
def test_bits_round_to_nearest(bits, digits):
    values = torch.randn(1000)
    stored = to_bits(values, bits)
    assert stored.dtype == np.int16
    assert torch.allclose(from_bits(torch.from_numpy(stored), bits), values, rtol=digits, atol=1e-7)
    with pytest.raises(UserError, match="fp16 cannot hold .*bf16 may"):
        to_bits(torch.tensor([1e6]), "fp16")
    with pytest.raises(UserError, match="weights are damaged"):
        to_bits(torch.tensor([float("nan")]), bits)


def test_a_stopped_encoding_goes_on(pixels, latents, kl, tmp_path, small_parts, monkeypatch):
    calls = iter(range(10**6))

    def stop_at_the_eighth(images):
        if next(calls) == 8:
            raise KeyboardInterrupt
        return moments(images)

    moments = kl.moments
    monkeypatch.setattr(kl, "moments", stop_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        encode(pixels, tmp_path / "x.beton", kl, batch=4, say=quiet)
    parts = tmp_path / "x.beton.parts"
    assert os.listdir(tmp_path) == ["x.beton.parts"]
    assert sorted(os.listdir(parts)) == ["part-000000.npy", "part-000001.npy", "plan.json"]
    with pytest.raises(UserError, match=f"{parts}: holds parts of another encoding \\(other batch, bits\\)"):
        encode(pixels, tmp_path / "x.beton", kl, batch=5, bits="bf16", say=quiet)
    lines = []
    encode(pixels, tmp_path / "x.beton", kl, batch=4, say=lines.append)
    assert "continuing from 16 of 45 images" in lines[0] and "45 of 45 images encoded" in lines[-2] and "images/s" in lines[-2]
    assert (tmp_path / "x.beton").read_bytes() == latents.read_bytes() and not parts.exists()
    encode(pixels, tmp_path / "x.beton", kl, batch=4, say=lines.append)
    assert "already there" in lines[-1]
    with pytest.raises(UserError, match="exists already and is something else"):
        encode(pixels, tmp_path / "x.beton", kl, batch=8, say=quiet)


LAUNCHERS = {"torchrun": ["torchrun", "--standalone", "--nproc_per_node", "2", "--no-python"],
             "deepspeed": ["deepspeed", "--num_gpus", "2", "--no_python", "--no_local_rank"]}


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("deepspeed", marks=pytest.mark.slow)])
def test_two_ranks_make_the_same_file(vae_folders, kl, tmp_path, launcher):
    """The command lines of docs/data.md, over two parts: 1,024 images and 66."""
    source, images = tmp_path / "pixels.beton", np.random.default_rng(0).integers(0, 256, (1090, 3, 8, 8), np.uint8)
    write_beton(source, {"image": images, "label": np.arange(1090)})
    write_manifest(source, Manifest(
        name="noise", split="train", samples=1090, shape=[3, 8, 8], classes=1090, class_counts=[1] * 1090, source="a test",
        source_blake2b="0" * 64, content_blake2b=content_blake2b(images, np.arange(1090)), writer="numpy", ditscale_version="test"))
    encode(source, tmp_path / "one.beton", kl, say=quiet)
    programs = Path(sys.executable).parent
    command = [*LAUNCHERS[launcher], "ditscale", "data", "encode", source, tmp_path / "two.beton", "--vae", vae_folders["kl"],
               "--device", "cpu"]
    done = subprocess.run([programs / command[0], *map(str, command[1:])], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1,090 images as latents of 4 x 1 x 1, fp16") == 1      # rank 0 alone speaks
    for suffix in (".beton", ".json"):
        assert (tmp_path / "two").with_suffix(suffix).read_bytes() == (tmp_path / "one").with_suffix(suffix).read_bytes()


@pytest.mark.slow
def test_three_ranks_make_the_same_file(pixels, latents, vae_folders, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import ditscale.data.encode as e\ne.PART_IMAGES = 8\nfrom ditscale.cli import main\nmain()\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    arguments = [pixels, tmp_path / "x.beton", "--vae", vae_folders["kl"], "--batch", 4, "--device", "cpu"]
    done = subprocess.run([*launcher, str(program), "data", "encode", *map(str, arguments)], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.beton").read_bytes() == latents.read_bytes()
    assert (tmp_path / "x.json").read_text() == latents.with_suffix(".json").read_text()


def test_mistakes_are_named(pixels, latents, kl, vae_folders, tmp_path):
    for name, word in (("grey", "3 channels, but these have 1"), ("odd", "8 x 8 pixels, which does not divide 32 x 20; 32 x 16")):
        shape = (3, 1, 32, 32) if name == "grey" else (3, 3, 32, 20)
        path = tmp_path / f"{name}.beton"
        write_beton(path, {"image": np.zeros(shape, np.uint8), "label": np.arange(3)})
        path.with_suffix(".json").write_text(pixels.with_suffix(".json").read_text())
        with pytest.raises(UserError, match=word):
            encode(path, tmp_path / "x.beton", kl)
    with pytest.raises(UserError, match="holds latents already"):
        encode(latents, tmp_path / "x.beton", kl)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="x.beton.parts cannot be written"):
        encode(pixels, tmp_path / "file" / "x.beton", kl)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UserError, match=f"--vae {other}: no autoencoder that can be read"):
        load_vae(str(other), "cpu")
    (other / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(UserError, match="is a UNet2DModel, not one of AutoencoderKL, AutoencoderTiny"):
        load_vae(str(other), "cpu")
    assert not [name for name in os.listdir(tmp_path) if name.startswith("x.")]
