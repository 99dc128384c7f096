"""``ditscale data inspect``: words, pictures, and the check of every byte."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ditscale.data.beton import FIELD, HEADER, BetonFile, write_beton
from ditscale.data.inspect import describe, save_grid, verify
from ditscale.data.vae import load_vae
from ditscale.errors import UserError


def test_says_what_is_there(pixels, latents, tmp_path):
    text = "\n".join(describe(pixels))
    for words in ("45 samples", "'image': uint8 3 x 32 x 32", "'label': integer", "name: noise", "source: a test",
                  "5 classes, 9 to 9 samples each", f"  bee {'#' * 40} 9"):
        assert words in text
    text = "\n".join(describe(latents))
    for words in ("'moments': int16 2 x 2 x 4 x 4 x 4", "AutoencoderKL", "0.18215", "fp16", "encoded from: noise train, content"):
        assert words in text
    write_beton(tmp_path / "x.beton", {"image": np.zeros((120, 1, 2, 2), np.uint8), "label": np.arange(120)})
    text = "\n".join(describe(tmp_path / "x.beton"))
    assert "no manifest" in text and "120 classes" in text and "... and 80 more" in text


def test_verify_finds_a_flipped_byte(pixels, latents, tmp_path):
    assert verify(pixels) == verify(latents) == "verified: 45 samples are what the manifest says"
    for source in (pixels, latents):
        for name in (source.name, source.with_suffix(".json").name):
            shutil.copy(source.parent / name, tmp_path / name)
        path = tmp_path / source.name
        whole = bytearray(path.read_bytes())
        label = HEADER.itemsize + 2 * FIELD.itemsize + 8
        for place, words in ((2**21 + 5, "its content hashes to"), (label, "its class_counts are")):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
            BetonFile(path)                                                    # opens: no table is damaged
            with pytest.raises(UserError, match=f"{path}: damaged: {words}.*build it again"):
                verify(path)
    (tmp_path / "train.json").unlink()
    with pytest.raises(UserError, match="train.json: cannot be read"):
        verify(tmp_path / "train.beton")


@pytest.mark.parametrize("field, value, words", [
    ("classes", None, "'classes' is 'None': should be a valid integer"), ("classes", -1, "classes is -1; 1 to 1,048,576"),
    ("classes", 10**12, "classes is 1000000000000"), ("content_blake2b", {}, "'content_blake2b' is '{}'"),
    ("encoder", "x", "'encoder' is 'x'"), ("encoder", {"class": "AutoencoderKL"}, "'encoder.weights_sha256' is missing"),
    ("class_names", 3, "'class_names' is '3'"), ("pixels", {"name": "a"}, "'pixels.split' is missing")])
def test_a_manifest_of_another_form_is_one_line(pixels, tmp_path, field, value, words):
    for name in (pixels.name, pixels.with_suffix(".json").name):
        shutil.copy(pixels.parent / name, tmp_path / name)
    manifest = tmp_path / "train.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), field: value}))
    for reads in (verify, describe):
        with pytest.raises(UserError, match=re.escape(f"{manifest}: damaged: {words}") + ".*; build the data again$"):
            reads(tmp_path / "train.beton")


def test_grid_of_pixels(pixels, tmp_path):
    assert "45 images" in save_grid(pixels, tmp_path / "grid.png")
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (6 * 34, 8 * 34, 3)
    stored = BetonFile(pixels).read("image", np.arange(45)).transpose(0, 2, 3, 1)
    assert (sheet[:32, 34:66] == stored[1]).all() and (sheet[34:66, :32] == stored[8]).all() and (sheet[32:34] == 255).all()


def test_grid_of_latents_is_decoded(latents, vae_folders, tmp_path):
    assert "45 images" in save_grid(latents, tmp_path / "grid.png", load_vae(vae_folders["kl"], "cpu"))
    assert np.asarray(Image.open(tmp_path / "grid.png")).shape == (6 * 34, 8 * 34, 3)
    with pytest.raises(UserError, match="--grid needs --vae, the AutoencoderKL that made them"):
        save_grid(latents, tmp_path / "no.png")
    with pytest.raises(UserError, match="its weights are not those that made"):
        save_grid(latents, tmp_path / "no.png", load_vae(vae_folders["tiny"], "cpu"))


def test_grids_that_cannot_be(pixels, tmp_path):
    with pytest.raises(UserError, match="ends in .png"):
        save_grid(pixels, tmp_path / "no.jpg")
    write_beton(tmp_path / "x.beton", {"image": np.zeros((4, 2, 2, 2), np.uint8), "label": np.arange(4)})
    with pytest.raises(UserError, match="cannot be written"):
        save_grid(pixels, tmp_path / "x.beton" / "no.png")
    with pytest.raises(UserError, match="2 channels make no picture"):
        save_grid(tmp_path / "x.beton", tmp_path / "no.png")
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob("*.jpg"))
