"""``ditscale sample``: one set of images, whatever its form, the ranks that made it, and the stops on the way."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ditscale.cli import main
from ditscale.config import SamplingConfig
from ditscale.data.beton import write_beton
from ditscale.evaluation.sampling.maker import ImageMaker
from ditscale.evaluation.sampling.model import choose_weights
from ditscale.training.checkpoint.weights import run_config

COUNT = 27                                                                     # parts of 8, 8, 8 and 3


@pytest.fixture
def run(pixel_values, hand_run):
    return hand_run(checkpoints=(320, 640), averages=("ema", "masters"))


def ditscale(*arguments):
    return CliRunner().invoke(main, ["sample", *map(str, arguments)], catch_exceptions=False)


def made(*arguments):
    done = ditscale(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def read(path):
    """Images (N, H, W, C) and labels (N,) of a .npz."""
    with np.load(path) as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        return arrays["arr_0"], arrays["arr_1"]


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != "sample.json"}


def test_npz_and_png_hold_the_makers_images(run, tmp_path):
    said = made(run.path, tmp_path / "x.npz", "--images", COUNT)
    assert f"x.npz: {COUNT} images, " in said and "images/s" in said
    images, labels = read(tmp_path / "x.npz")
    config = run_config(run)
    maker = ImageMaker(config, config.evaluation, "cpu")
    maker.load(choose_weights(run, None, "ema")[0])
    expected = torch.cat([maker.make(part, 4)[0] for part in torch.arange(COUNT).split(8)])
    assert images.dtype == np.uint8 and (images == expected.permute(0, 2, 3, 1).numpy()).all()
    assert labels.dtype == np.int64 and (labels == np.arange(COUNT) % 5).all()

    made(run.path, tmp_path / "pictures", "--images", COUNT)
    for number, image in enumerate(images):
        assert (np.asarray(Image.open(tmp_path / "pictures" / f"{number:06d}.png")) == image).all()
    with open(tmp_path / "pictures" / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], int(row["label"])) for row in rows] == [(f"{i:06d}.png", i % 5) for i in range(COUNT)]
    assert sorted(os.listdir(tmp_path)) == ["pictures", "run", "x.npz", "x.npz.json"]


def test_compiled_on_a_cpu(run, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiled.append(options) or model)
    made(run.path, tmp_path / "eager.npz", "--images", 4)
    assert compiled == []
    made(run.path, tmp_path / "x.npz", "--images", 4, "--compile")
    assert compiled == [{"dynamic": False}]
    ours, eager = (read(tmp_path / name)[0].astype(int) for name in ("x.npz", "eager.npz"))
    assert abs(ours - eager).max() <= 1                                        # gray levels; an eager model's layers are packed (linear.py)
    assert "compiled False, now True" in ditscale(run.path, tmp_path / "eager.npz", "--images", 4, "--compile").stderr


def test_grey_images(values, hand_run, tmp_path):
    values["data"]["path"] = str(tmp_path / "digits.beton")
    write_beton(values["data"]["path"], {"image": np.zeros((10, 1, 8, 8), np.uint8), "label": np.arange(10)})
    grey = hand_run()
    made(grey.path, tmp_path / "x.npz", "--images", 3)
    made(grey.path, tmp_path / "x", "--images", 3)
    images, _ = read(tmp_path / "x.npz")
    assert images.shape == (3, 8, 8, 1) and (np.asarray(Image.open(tmp_path / "x/000002.png")) == images[2, :, :, 0]).all()


def test_the_note_says_how_they_were_made(run, tmp_path):
    made(run.path, tmp_path / "x", "guidance_scale=2.5", "sampler=euler", "average=masters", "labels=random", "--images", 3,
         "--seed", 9, "--checkpoint", 320)
    note = json.loads((tmp_path / "x/sample.json").read_text())
    assert (note["run"], note["checkpoint"], note["average"], note["images"], note["seed"], note["format"]) == \
        ("run", "images-000000000320", "masters", 3, 9, "png")
    assert note["weights_sha256"] == choose_weights(run, 320, "masters")[1]["weights_sha256"]
    assert {*SamplingConfig.model_fields} - {"vae"} <= note.keys() and note["guidance_scale"] == 2.5
    assert note["passport"]["nfe"] == 3 and note["passport"]["labels"] == "random" and note["passport"]["decoder"] == "none"
    assert note["nan_images"] == [] and note["environment"]["torch"] and str(tmp_path) not in json.dumps(note)


def test_every_choice_reaches_the_images(run, tmp_path):
    choices = [[], ["guidance_scale=4"], ["sampler=euler"], ["sampling_steps=2"], ["average=masters"], ["labels=3"],
               ["--seed", 5], ["--checkpoint", 320]]
    sets = []
    for number, choice in enumerate(choices):
        made(run.path, tmp_path / f"{number}.npz", "--images", 8, *choice)
        sets.append(read(tmp_path / f"{number}.npz")[0])
    assert len({images.tobytes() for images in sets}) == len(choices)
    assert read(tmp_path / "5.npz")[1].tolist() == [3] * 8


def test_a_run_without_evaluation_needs_steps(pixel_values, hand_run, tmp_path):
    del pixel_values["evaluation"]
    run = hand_run()
    assert "give sampling_steps=50, for example" in ditscale(run.path, tmp_path / "x", "--images", 2).stderr
    made(run.path, tmp_path / "x", "sampling_steps=2", "--images", 2)
    assert json.loads((tmp_path / "x/sample.json").read_text())["seed"] == 0


@pytest.mark.parametrize("out", ["x.npz", "x"])
def test_a_stopped_set_goes_on(run, tmp_path, monkeypatch, out):
    make, calls = ImageMaker.make, iter(range(100))

    def stop_at_the_third(self, positions, seed):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return make(self, positions, seed)

    made(run.path, tmp_path / "whole" / out, "--images", COUNT)
    with monkeypatch.context() as patched:
        patched.setattr(ImageMaker, "make", stop_at_the_third)
        assert ditscale(run.path, tmp_path / out, "--images", COUNT).exit_code == 130
    assert sorted(os.listdir(tmp_path)) == [f".{out}.partial", "run", "whole"]
    for others, word in ((["--images", 30], "images 27, now 30"),
                         (["--images", COUNT, "guidance_scale=2"], "guidance_scale 1.5, now 2.0"),
                         (["--images", COUNT, "--checkpoint", 320], "checkpoint images-000000000640, now images-000000000320")):
        refused = ditscale(run.path, tmp_path / out, *others)
        assert refused.exit_code == 2 and word in refused.stderr
    lines = made(run.path, tmp_path / out, "--images", COUNT).splitlines()
    assert f"continuing from 16 of {COUNT} images" in lines[0]
    if out == "x":
        assert files(tmp_path / out) == files(tmp_path / "whole" / out)
    else:
        assert (tmp_path / out).read_bytes() == (tmp_path / "whole" / out).read_bytes()
    assert not (tmp_path / f".{out}.partial").exists()
    assert made(run.path, tmp_path / out, "--images", COUNT) == f"{tmp_path / out}: already exists\n"
    note = tmp_path / out / "sample.json" if out == "x" else tmp_path / f"{out}.json"
    older = {key: value for key, value in json.loads(note.read_text()).items() if key not in ("rounding", "sde_norm")}
    note.write_text(json.dumps(older))                                         # made before there were these options
    assert made(run.path, tmp_path / out, "--images", COUNT) == f"{tmp_path / out}: already exists\n"
    refused = ditscale(run.path, tmp_path / out, "--images", COUNT, "rounding=floor")
    assert refused.exit_code == 2 and "contains images made with other settings: rounding nearest, now floor" in refused.stderr
    refused = ditscale(run.path, tmp_path / out, "--images", COUNT, "batch=9", "--seed", 1)
    assert refused.exit_code == 2 and "contains images made with other settings: seed 4, now 1; batch 8, now 9" in refused.stderr


RANKS = ["torchrun", "--standalone", "--nproc_per_node", "2", "--no-python", "ditscale", "sample"]


def test_a_kill_and_two_ranks_make_the_same_bytes(run, tmp_path):
    """Killed between a part's images and its mark, taken up by two ranks: the bytes of one rank that was never stopped."""
    made(run.path, tmp_path / "one", "--images", COUNT)
    program = ("import os, signal, ditscale.evaluation.sampling.workfolder as w\nmark = w.WorkFolder.mark\n"
               "def killed(self, part, nan):\n    os.kill(os.getpid(), signal.SIGKILL) if part == 2 else mark(self, part, nan)\n"
               "w.WorkFolder.mark = killed\nfrom ditscale.cli import main\nmain()\n")
    arguments = [str(run.path), str(tmp_path / "two"), "--images", str(COUNT)]
    killed = subprocess.run([sys.executable, "-c", program, "sample", *arguments], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL and (tmp_path / ".two.partial/pictures/000023.png").exists()
    programs = Path(sys.executable).parent
    done = subprocess.run([programs / RANKS[0], *RANKS[1:], *arguments], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr
    assert f"continuing from 16 of {COUNT} images" in done.stdout and done.stdout.count("images/s") == 1       # rank 0 alone speaks
    assert files(tmp_path / "two") == files(tmp_path / "one") and len(files(tmp_path / "two")) == COUNT + 1


def test_latents_are_decoded(latent_values, hand_run, vae_folders, tmp_path):
    run = hand_run()
    made(run.path, tmp_path / "x.npz", "--images", 3)
    assert read(tmp_path / "x.npz")[0].shape == (3, 32, 32, 3)
    assert json.loads((tmp_path / "x.npz.json").read_text())["decoder"].startswith("AutoencoderKL ")
    refused = ditscale(run.path, tmp_path / "y.npz", "--images", 3, f"vae={vae_folders['tiny']}")
    assert refused.exit_code == 2 and "was encoded with sha256" in refused.stderr


@pytest.mark.parametrize("arguments, words", [
    (["guidance_scal=2"], "unknown key 'guidance_scal'; did you mean 'guidance_scale'?"),
    (["labels=5"], "labels 5 is not a class of the run; give 0 to 4"),
    (["sampler=ddpm"], "does not work with formulation 'flow'"),
    (["sampling_steps"], "key=value"),
    (["average=ema-decay-0.9"], "it has ema, masters"),
    (["--checkpoint", 5], "no checkpoint at 5 images; it has 320, 640"),
    (["--format", "npz"], "needs a name that ends in .npz"),
    (["--images", 0], "0 is not in the range x>=1"),
])
def test_mistakes_are_named(run, tmp_path, arguments, words):
    done = ditscale(run.path, tmp_path / "x", "--images", 4, *arguments)
    assert done.exit_code == 2 and words in done.stderr and not done.stdout
    assert os.listdir(tmp_path) == ["run"]


def test_what_stands_in_the_way_is_left_alone(run, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/holiday.png").touch()
    (tmp_path / "x.npz").touch()
    for out in ("x", "x.npz"):
        done = ditscale(run.path, tmp_path / out, "--images", 4)
        assert done.exit_code == 2 and f"{tmp_path / out}: already exists and is not a set of images" in done.stderr
    assert os.listdir(tmp_path / "x") == ["holiday.png"] and "cannot be written" in ditscale(
        run.path, tmp_path / "x.npz" / "y", "--images", 4).stderr
    assert "is not a run directory" in ditscale(tmp_path, tmp_path / "y", "--images", 4).stderr


def test_the_run_is_only_read(run, tmp_path):
    def listing():
        return {path: path.stat().st_mtime_ns for path in [run.path, *run.path.rglob("*")]}

    before = listing()
    made(run.path, tmp_path / "x", "--images", 4)
    assert listing() == before


def test_nan_is_an_error_of_a_whole_set(run, sign, tmp_path):
    from safetensors.torch import load_file, save_file

    path = run.checkpoints / "images-000000000640/ema.safetensors"
    weights = load_file(path)
    weights["y_embedder.embedding_table.weight"][2] = torch.nan
    save_file(weights, path)
    sign(path.parent)
    for _ in ("made", "already there"):
        done = ditscale(run.path, tmp_path / "x.npz", "--images", COUNT)
        assert done.exit_code == 1 and "5 of 27 images have values that are not finite numbers" in done.stderr
        assert "the first is image 2." in done.stderr
    images, labels = read(tmp_path / "x.npz")
    assert (images[labels == 2] == 0).all()
    assert json.loads((tmp_path / "x.npz.json").read_text())["nan_images"] == [2, 7, 12, 17, 22]
