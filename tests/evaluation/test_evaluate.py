"""Evaluations of runs and of images: one line each with its passport, the same on any ranks, and wrong use is caught."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.data.beton import BetonFile
from ditscale.errors import UserError
from ditscale.evaluation.metrics.frechet import frechet_distance
from ditscale.evaluation.metrics.moments import moments
from ditscale.evaluation.sampling.maker import averaged
from ditscale.evaluation.scoring import Scorer
from ditscale.evaluation.settings import sweep
from ditscale.evaluation.summary import mean_and_interval
from ditscale.rundir import read_lines
from ditscale.training.distributed import World

ALSO = ("is", "kid", "precision_recall", "fd_infinity", "bootstrap")


@pytest.fixture
def run(hand_run, digits_values):
    """A run on the digits with random weights, at two checkpoints."""
    digits_values["evaluation"].update(samples=300, sampling_steps=2, batch=64)
    return hand_run({"evaluation": digits_values["evaluation"], "data": digits_values["data"], "model.name": "DiT-atto/8"},
                    checkpoints=(320, 640), averages=("ema", "masters"))


def evaluate(*arguments, code=0):
    done = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def test_a_line_with_passport_and_cost(run):
    said = evaluate(run.path, f"also=[{','.join(ALSO)}]")
    [line] = read_lines(run.evals)
    assert line["images_seen"] == 640 and line["metric"] == "fd_digits_cnn" and line["score"] > line["floor"] > 0
    assert set(line["values"]) >= {"is", "kid", "precision", "recall", "fd_infinity"} and line["error"] > 0
    assert line["nan_images"] == 0 and line["sampling_flops"] > 0 and line["accelerator_hours"] == line["seconds"] / 3600
    assert line["passport"]["samples"] == 300 and line["passport"]["ema_decay"] and line["passport"]["average"] == "decay"
    assert f"{line['score']:.4g}" in said and "640" in said and not list(run.path.glob(".features*"))
    evaluate(run.path)                                                         # it stands: nothing is made again
    assert len(read_lines(run.evals)) == 1


def test_a_sweep_is_every_combination(run):
    said = evaluate(run.path, "seed=[0,1,2]", "guidance_scale=[1,2]", "--all")
    lines = read_lines(run.evals)
    assert len(lines) == 12 and len({line["passport_id"] for line in lines}) == 6
    assert {line["images_seen"] for line in lines} == {320, 640}
    assert "guidance_scale" in said and "±" in said and said.count("│ 3 ") + said.count("  3 │") >= 4
    evaluate(run.path, "average=masters")
    assert read_lines(run.evals)[-1]["passport"] | {"ema_decay": 0, "average": ""} == lines[0]["passport"] | {
        "ema_decay": 0, "average": "", "guidance_scale": read_lines(run.evals)[-1]["passport"]["guidance_scale"]}


def test_ranks_make_no_difference(run, tmp_path):
    """The same samples, and moments to 1e-12: scores agree to rounding."""
    evaluate(run.path, "also=[kid,precision_recall]")
    command = ["torchrun", "--standalone", "--nproc_per_node", "2", "--no-python", sys.executable, "-c",
               "from ditscale.cli import main; main()", "evaluate",
               str(run.path), "also=[kid,precision_recall,bootstrap]"]
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PATH": path, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    one, two = read_lines(run.evals)
    assert two["score"] == pytest.approx(one["score"], rel=1e-10) and two["passport_id"] == one["passport_id"]
    assert two["values"] == pytest.approx(one["values"], rel=1e-6)


def test_images_from_elsewhere(run, digits, tmp_path):
    """A folder and an npz of held-out digits: distance by hand; the line goes beside them."""
    images = BetonFile(digits / "train.beton").read("image", np.arange(200))
    (tmp_path / "found").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / "found" / f"{number:04d}.png")
    np.savez(tmp_path / "found.npz", arr_0=images.transpose(0, 2, 3, 1))
    settings = [f"extractor_path={digits / 'digits_cnn.safetensors'}", f"reference_path={digits / 'heldout.beton'}"]
    evaluate(tmp_path / "found", *settings)
    evaluate(tmp_path / "found.npz", *settings, "--out", tmp_path / "other.jsonl")
    [line], [other] = read_lines(tmp_path / "found.evals.jsonl", "score"), read_lines(tmp_path / "other.jsonl", "score")

    from ditscale.evaluation.extractors.make import make_extractor
    extractor = make_extractor("digits_cnn", digits / "digits_cnn.safetensors")
    heldout = BetonFile(digits / "heldout.beton")
    features = [extractor(torch.from_numpy(part)).pooled.numpy() for part in (images, heldout.read("image", np.arange(heldout.num_samples)))]
    assert line["score"] == pytest.approx(frechet_distance(*map(moments, features)), rel=1e-5)
    assert other["score"] == line["score"] and line["passport"]["sampler"] is None and line["images_seen"] is None


def test_sampled_images_score_as_their_run(run, tmp_path):
    """From disk or straight from the model: one passport, one score."""
    done = CliRunner().invoke(main, ["sample", str(run.path), str(tmp_path / "set.npz"), "--images", "300"])
    assert done.exit_code == 0, done.output
    evaluate(run.path)
    settings = read_lines(run.evals)[0]
    stated = json.loads(run.record.read_text())["config"]["evaluation"]
    evaluate(tmp_path / "set.npz", f"extractor_path={stated['extractor_path']}", f"reference_path={stated['reference_path']}")
    [line] = read_lines(tmp_path / "set.npz.evals.jsonl", "score")
    assert line["passport"] == settings["passport"] and line["score"] == pytest.approx(settings["score"], rel=1e-6)


def test_a_run_on_latents_in_features_of_ones_own(hand_run, latent_values, pixels, tmp_path, monkeypatch):
    """Samples are decoded by the VAE; there is no floor, and the network is named by its path and weights."""
    (tmp_path / "own_features.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def forward(self, images):\n"
        "        pixels = images.float().flatten(2) / 255\n        return torch.cat([pixels.mean(2), pixels.std(2)], 1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    latent_values["evaluation"] |= {"metric": "fd_own_features:Net", "extractor_path": None, "reference_path": str(pixels),
                                    "samples": 32, "sampling_steps": 2}
    run = hand_run({"evaluation": latent_values["evaluation"], "data": latent_values["data"], "model": latent_values["model"]})
    evaluate(run.path)
    [line] = read_lines(run.evals)
    assert line["floor"] is None and line["metric"] == "fd_own_features:Net" and np.isfinite(line["score"])
    assert line["passport"]["decoder"].startswith("AutoencoderKL")
    with np.load(run.samples / "images-000000000640.npz") as sheet:
        assert sheet["arr_0"].shape == (32, 32, 32, 3)


def test_sfid_is_the_distance_of_spatial_features(run, digits, tmp_path, monkeypatch):
    """Of a network that gives some, here pixels, as Inception's come from other layers."""
    (tmp_path / "spatial_features.py").write_text(
        "import torch\nfrom ditscale.evaluation.extractors import Features\n\n\nclass Net(torch.nn.Module):\n"
        "    def forward(self, images):\n        pixels = images.float().flatten(1)\n"
        "        return Features(pixels[:, :4], spatial=pixels[:, 20:30])\n")
    monkeypatch.syspath_prepend(tmp_path)
    images = {name: BetonFile(digits / f"{name}.beton") for name in ("train", "heldout")}
    found = {name: file.read("image", np.arange(300)) for name, file in images.items()}
    np.savez(tmp_path / "found.npz", arr_0=found["train"].transpose(0, 2, 3, 1))
    np.savez(tmp_path / "reference.npz", arr_0=found["heldout"].transpose(0, 2, 3, 1))
    evaluate(tmp_path / "found.npz", "metric=fd_spatial_features:Net", "also=[sfid]", f"reference_path={tmp_path / 'reference.npz'}")
    [line] = read_lines(tmp_path / "found.npz.evals.jsonl", "score")
    by_hand = [frechet_distance(*(moments(found[name].reshape(300, -1)[:, part]) for name in ("train", "heldout")))
               for part in (slice(0, 4), slice(20, 30))]
    assert [line["score"], line["values"]["sfid"]] == pytest.approx(by_hand, rel=1e-9)


def test_other_settings_need_another_network_or_reference(run, digits, tmp_path):
    def refused(*arguments):
        said = evaluate(*arguments, code=2)
        assert said.count("\n") == 1 and "Traceback" not in said
        return said

    assert "did you mean 'guidance_scale'" in refused(run.path, "guidance_scal=2")
    assert "given twice" in refused(run.path, "seed=1", "seed=2")
    assert "metric is 'fd_digit_cnn'; did you mean 'fd_digits_cnn'" in refused(run.path, "metric=fd_digit_cnn")
    assert "fd_inception" in refused(run.path, "metric=fd_inception")
    assert "no checkpoint at 5 images; it has 320, 640" in refused(run.path, "--images", 5)
    assert "no such file" in refused(run.path, "reference_path=/nowhere.npz")
    assert "only statistics" in _with_statistics(run, digits, tmp_path, refused)
    assert "sfid" in refused(run.path, "also=[sfid]")
    assert "is not a run directory" in refused(tmp_path, "--all")
    checkpoint = run.checkpoints / "images-000000000320"
    (checkpoint / "state.json").write_text("{}")
    assert f"give its run: ditscale evaluate {run.path} --images 320" in refused(checkpoint)
    assert "does not work with formulation" in refused(run.path, "sampler=ddim")
    assert not run.evals.exists()


def _with_statistics(run, digits, tmp_path, refused):
    done = CliRunner().invoke(main, ["stats", str(digits / "heldout.beton"), str(tmp_path / "ref.npz"), "--extractor", "digits_cnn",
                                     "--weights", str(digits / "digits_cnn.safetensors")])
    assert done.exit_code == 0, done.output
    return refused(run.path, f"reference_path={tmp_path / 'ref.npz'}", "also=[kid]")


def test_statistics_give_the_score_of_their_images(run, digits, tmp_path):
    CliRunner().invoke(main, ["stats", str(digits / "heldout.beton"), str(tmp_path / "ref.npz"), "--extractor", "digits_cnn",
                              "--weights", str(digits / "digits_cnn.safetensors")])
    evaluate(run.path)
    evaluate(run.path, f"reference_path={tmp_path / 'ref.npz'}")
    first, second = read_lines(run.evals)
    assert second["score"] == pytest.approx(first["score"], rel=1e-9) and second["floor"] == pytest.approx(first["floor"], rel=1e-9)


def test_batches_of_any_size_have_the_same_moments(digits_values, digits):
    scorer = Scorer(resolve(digits_values, "test").evaluation, World(0, 1, torch.device("cpu")))
    images = torch.from_numpy(BetonFile(digits / "train.beton").read("image", np.arange(256)))
    scores = [scorer.score(zip(torch.arange(256).split(size), images.split(size)), 256).score for size in (256, 128, 64)]
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-12)


def test_too_few_samples_are_said_with_their_bias(run):
    assert "warning" not in evaluate(run.path, "samples=400")
    said = evaluate(run.path, "samples=200")
    assert "200 images for 64 dimensions; the reference has 360: the score is too high by about" in said
    assert "so the covariance is singular" in evaluate(run.path, "samples=60")
    many, few, fewest = read_lines(run.evals)
    assert many["bias"] is None and 0 < few["bias"] < fewest["bias"]


def test_broken_samples_are_counted(hand_run, sign, digits_values):
    from safetensors.torch import load_file, save_file

    digits_values["evaluation"].update(samples=64, sampling_steps=2)
    run = hand_run({"evaluation": digits_values["evaluation"], "data": digits_values["data"], "model.name": "DiT-atto/8"})
    path = run.checkpoints / "images-000000000640" / "ema.safetensors"
    weights = load_file(path)
    save_file({**weights, "final_layer.linear.bias": torch.full_like(weights["final_layer.linear.bias"], torch.nan)}, path)
    sign(path.parent)
    assert "WARNING: 64 of 64 images were not finite" in evaluate(run.path)
    assert read_lines(run.evals)[0]["nan_images"] == 64


def test_lists_are_values_where_a_key_takes_lists(values):
    config = resolve(values, "test")
    assert [each.evaluation.guidance_interval for each in sweep(config, ("guidance_interval=[0.1,0.5]",))] == [(0.1, 0.5)]
    pairs = [(each.evaluation.seed, each.evaluation.eta) for each in sweep(config, ("seed=[1,2]", "eta=[0.0]"))]
    assert pairs == [(1, 0.0), (2, 0.0)]
    with pytest.raises(UserError, match="the list is empty"):
        sweep(config, ("seed=[]",))


def test_the_interval_is_students():
    mean, half = mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.302653 / 3**0.5)
    assert mean_and_interval([1.0, 2.0]) == (1.5, None)


@pytest.mark.parametrize("name, fields", [("ema", {"ema_decay": 0.9}), ("ema-decay-0.99", {"ema_decay": 0.99}),
                                          ("ema-power-0.05", {"average": "length 0.05"}), ("masters", {"average": "masters"}),
                                          ("length-0.07", {"average": "length 0.07"})])
def test_averages_in_the_passport(name, fields):
    assert averaged(name, 0.9) == fields


def test_evaluations_are_json_without_nan(run):
    evaluate(run.path, "also=[kid]")
    json.loads(run.evals.read_text().strip(), parse_constant=lambda word: pytest.fail(word))


def test_a_place_that_cannot_be_written_is_found_before_the_work(run, monkeypatch):
    monkeypatch.setattr("ditscale.evaluation.sampling.maker.ImageMaker.make", None)
    result = CliRunner().invoke(main, ["sample", str(run.path), "/proc/x.npz", "--images", "4"])
    assert result.exit_code == 2 and "error: /proc/.x.npz.partial cannot be written: " in result.output
    run.samples.write_text("a file")
    result = CliRunner().invoke(main, ["evaluate", str(run.path)])
    assert result.exit_code == 2 and f"error: {run.samples / 'images-000000000640.npz'} cannot be written: Not a directory" in result.output
