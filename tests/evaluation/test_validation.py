"""The validation loss: against its formula, the same for any ranks, in the files, and refused where it would mean nothing."""

import copy
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner

from ditscale import randomness
from ditscale.cli import main
from ditscale.config import resolve
from ditscale.data.beton import BetonFile
from ditscale.dotted import set_key
from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import BUCKETS
from ditscale.evaluation.passport import differences
from ditscale.evaluation.validation import Validation
from ditscale.objectives.from_config import build_model
from ditscale.ranks import World
from ditscale.rundir import RunDir, read_lines
from ditscale.studies.table.study import Study
from ditscale.training.ports import free_port

ALONE = World(0, 1, torch.device("cpu"))
RANKS = """
import json, sys
import numpy as np
from ditscale.config import resolve
from ditscale.evaluation.validation import Validation
from ditscale.objectives.from_config import build_model
from ditscale.ranks import join_ranks

config = resolve(json.loads(sys.argv[1]), "test")
with join_ranks() as world:
    validation = Validation(config, world)
    losses = validation.losses(dict(build_model(config).named_parameters()))
    if world.is_main:
        np.savez(sys.argv[2], **losses)
"""


@pytest.fixture
def make_config(digits_values, digits):
    def make(changes={}):
        values = copy.deepcopy(digits_values)
        values["evaluation"]["validation"] = {"path": str(digits / "heldout.beton"), "images": 100}
        for key, value in changes.items():
            set_key(values, key, value)
        return resolve(values, "test")
    return make


def trained_weights(config):
    """Weights of a model whose output is not zero, as that of a new one is."""
    generator = torch.Generator().manual_seed(1)
    return {name: p.detach() + 0.02 * torch.randn(p.shape, generator=generator) for name, p in build_model(config).named_parameters()}


def test_it_is_the_formula(make_config):
    config = make_config()
    weights = trained_weights(config)
    found = Validation(config, ALONE).losses(weights)
    assert found.keys() == {"loss"} and found["loss"].shape == (100,) and found["loss"].dtype == np.float64

    file, model = BetonFile(config.evaluation.validation.path), build_model(config).eval()
    model.load_state_dict(weights, strict=False)
    order, levels = philox_order(file.num_samples), (philox_order(100) + 0.5) / 100
    for k in (0, 41, 99):
        image = torch.from_numpy(file.read("image", order[[k]])).double() / 127.5 - 1
        label = torch.from_numpy(file.read("label", order[[k]])).reshape(1).long()
        noise = randomness.draw(0, torch.tensor([k]), {"validation noise": randomness.Normal(image.shape[1:])})["validation noise"].double()
        noisy = (1 - levels[k]) * image + levels[k] * noise
        with torch.no_grad():
            velocity = model.double()(noisy, torch.tensor([1000 * levels[k]]), label)
        assert float((velocity - (noise - image)).square().mean()) == pytest.approx(found["loss"][k], rel=2e-5)


def philox_order(count, seed=0):
    """The order in which a pass visits ``count`` things, from numpy's own generator (docs/data.md)."""
    import hashlib

    stream = int.from_bytes(hashlib.sha256(b"data order").digest()[:8], "little")
    words = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=np.zeros(4, np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable")


@pytest.mark.parametrize("size", [2, 4])
def test_bitwise_the_same_for_any_ranks_and_batch(make_config, tmp_path, size):
    config = make_config({"evaluation.batch": 64, "evaluation.validation.images": 150})
    whole = Validation(config, ALONE).losses(dict(build_model(config).named_parameters()))["loss"]
    out = tmp_path / "ranks.npz"
    other = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"batch": 1})}).model_dump_json()
    shared = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [subprocess.Popen([sys.executable, "-c", RANKS, other, str(out)], env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
             for rank in range(size)]
    assert [rank.wait(240) for rank in ranks] == [0] * size
    assert (np.load(out)["loss"] == whole).all()


def test_levels_are_the_middles_once_each_and_buckets_are_tenths(make_config):
    validation = Validation(make_config(), ALONE)
    assert np.allclose(np.sort(validation.quantiles), (np.arange(100) + 0.5) / 100)
    assert validation.buckets(validation.quantiles) == pytest.approx((np.arange(BUCKETS) + 0.5) / BUCKETS)
    drawn = Validation(make_config({"evaluation.validation.levels": "uniform"}), ALONE).quantiles
    assert len(set(drawn)) > 90 and drawn.min() >= 0 and drawn.max() < 1 and not np.allclose(np.sort(drawn), np.sort(validation.quantiles))


@pytest.mark.parametrize("formulation", ["ddpm", "edm", "flow"])
@pytest.mark.parametrize("variant", ["baseline", "masked", "mdt", "discriminative", "tread", "sprint"])
def test_every_variant_and_formulation(make_config, variant, formulation):
    config = make_config({"objective": {"name": variant}, "formulation": {"name": formulation}, "model.name": "DiT-atto/2",
                          "evaluation.validation.images": 40, "evaluation.sampler": "heun"})
    found = Validation(config, ALONE).losses(trained_weights(config))
    masks = variant != "baseline"
    assert found.keys() == {"loss", *(["loss_masked"] if masks else [])}
    assert all(np.isfinite(series).all() and (series > 0).all() for series in found.values())
    assert not masks or (found["loss"] != found["loss_masked"]).all()


def test_a_new_model_stands_at_the_floor_of_the_noisiest_level(make_config):
    """Its output is zero, and v = n - x: E v^2 = 1 + E x^2 a dimension, at every level."""
    config = make_config({"evaluation.validation.images": 2000})
    file = BetonFile(config.evaluation.validation.path)
    pixels = file.read("image", np.arange(file.num_samples)) / 127.5 - 1
    found = Validation(config, ALONE).losses(dict(build_model(config).named_parameters()))["loss"]
    assert found.mean() == pytest.approx(1 + (pixels**2).mean(), rel=0.02)


def test_in_training_a_line_a_checkpoint_and_between(make_config, tmp_path, repository, monkeypatch):
    from ditscale.evaluation.evaluate import Evaluator
    from ditscale.training.distributed import join_world
    from ditscale.training.loop import train

    monkeypatch.chdir(repository)
    config = make_config({"train.images": 320, "train.global_batch": 32, "train.checkpoint_every_images": 160, "evaluation.samples": 20,
                          "evaluation.batch": 20, "evaluation.validation.every_images": 64,
                          "resources": {"loader": "mmap", "deepspeed": "ds_configs/zero1.json"}})
    run = RunDir(tmp_path / "run")
    run.create({"run_id": "run", "config": config.model_dump(mode="json")})
    world = join_world()
    evaluator = Evaluator(config, world)
    assert train(config, run, world, after_checkpoint=lambda: evaluator.evaluate_missing(run), **evaluator.between(run)) and evaluator.evaluate_missing(run)
    lines = [line for line in read_lines(run.evals) if line["metric"] == "loss"]
    assert [line["images_seen"] for line in lines] == [64, 128, 160, 192, 256, 320]
    assert ["loss_raw" in line["values"] for line in lines] == [False, False, True, False, False, True]
    assert np.mean([lines[-1]["values"][f"loss_bucket_{index}"] for index in range(BUCKETS)]) == pytest.approx(lines[-1]["score"], rel=1e-6)
    count = len(read_lines(run.evals))
    assert evaluator.evaluate_missing(run) and len(read_lines(run.evals)) == count

    # What training holds between checkpoints is what a checkpoint there would hold
    again = make_config({"train.images": 320, "train.global_batch": 32, "train.checkpoint_every_images": 64, "evaluation.samples": 20, "evaluation.batch": 20,
                         "resources": {"loader": "mmap", "deepspeed": "ds_configs/zero1.json"}})
    other = RunDir(tmp_path / "other")
    other.create({"run_id": "other", "config": again.model_dump(mode="json")})
    scorer = Evaluator(again, world)
    assert train(again, other, world, after_checkpoint=lambda: scorer.evaluate_missing(other)) and not scorer.between(other)
    scores = {line["images_seen"]: line["score"] for line in read_lines(other.evals) if line["metric"] == "loss"}
    assert {line["images_seen"]: line["score"] for line in lines if line["images_seen"] in scores} == \
        {images: score for images, score in scores.items() if images in (64, 128, 192, 256, 320)}


def test_the_run_keeps_its_name(make_config, digits_values):
    assert make_config().science_hash() == resolve(digits_values, "test").science_hash()


def test_passports_say_what_differs(make_config):
    stated = vars(Validation(make_config(), ALONE).passport)
    images = vars(Validation(make_config({"evaluation.validation.images": 50}), ALONE).passport)
    logit = vars(Validation(make_config({"formulation.t_distribution": "logit_normal"}), ALONE).passport)
    seed = vars(Validation(make_config({"evaluation.validation.seed": 1}), ALONE).passport)
    assert [name for name, _, _ in differences(stated, images)] == ["samples"]
    assert [name for name, _, _ in differences(stated, seed)] == ["levels"]    # other draws are another loss, not a repetition
    assert [name for name, _, _ in differences(stated, logit)] == ["levels"]


@pytest.mark.parametrize("changes, words", [
    ({"evaluation.validation.path": "train"}, "is the file that the run trains on"),
    ({"evaluation.validation.path": "gone.beton"}, "gone.beton"),
    ({"data.channels": 3}, "evaluation.validation.path"),
])
def test_refused(make_config, digits, changes, words):
    if changes.get("evaluation.validation.path") == "train":
        changes = {"evaluation.validation.path": str(digits / "train.beton")}
    with pytest.raises(UserError, match=words):
        Validation(make_config(changes), ALONE)


@pytest.mark.parametrize("changes, words", [
    ({"evaluation.validation.every_images": 64, "evaluation.average": "masters"}, "average ema, the average"),
    ({"evaluation.validation.every_images": 64, "resources.evaluate": "separately"}, "in_training"),
    ({"evaluation.validation.images": 1}, "images"),
    ({"evaluation.validation.level": "uniform"}, "levels"),
])
def test_refused_before_a_start(make_config, changes, words):
    with pytest.raises(UserError, match=words):
        make_config(changes)



def ditscale(*arguments, code=0):
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def study(hand_run, digits_values, tmp_path):
    """The folder of a study of one run with random weights at two checkpoints, scored, without a section evaluation.validation."""
    digits_values["evaluation"].update(samples=40, sampling_steps=2, batch=40)
    run = hand_run({"evaluation": digits_values["evaluation"], "data": digits_values["data"]}, checkpoints=(320, 640),
                   averages=("ema", "masters"))
    record = run.read_record()
    config = resolve(record["config"], "test")
    from dataclasses import asdict

    from ditscale.cost.runs import run_card

    card = run_card(config)
    run.update_record(cost={**asdict(card), "macs": card.macs, "train_flops_per_image": card.train_flops_per_image})
    ditscale("evaluate", run.path, "--all")
    return run


def test_the_command_adds_lines_once_and_figures_take_either(study, digits, tmp_path):
    heldout = digits / "heldout.beton"
    assert "no held-out images: give --data" in ditscale("validate", study.path, code=2)
    assert "loss_raw" in ditscale("validate", study.path, "--data", heldout, "--draws", 64, "--all")
    ditscale("validate", study.path, "--data", heldout, "--draws", 64, "--all")
    lines = read_lines(study.evals)
    assert [line["metric"] for line in lines] == ["fd_digits_cnn"] * 2 + ["loss"] * 2

    folder = study.path.parent
    losses = Study.load(folder).where(metric="loss")
    assert Study.load(folder).frontier().score_unit == "fd_digits_cnn" and losses.frontier().score_unit == "loss"
    assert sorted(losses.table()["score"]) == sorted(line["score"] for line in lines[2:])
    for where, metric in (((), "fd_digits_cnn"), (("--where", "metric=loss"), "loss")):
        ditscale("figure", "training_curves", folder, "--out", tmp_path / metric, "--format", "svg", *where)
        assert set(pd.read_csv(tmp_path / metric / "training_curves.csv")["metric"]) == {metric}
    study.update_record(metric={"name": "loss"})                              # the metric of the study's file is the one that is shown
    assert Study.load(folder).frontier().score_unit == "loss"
    for where, metric in (((), "loss"), (("--where", "metric=fd_digits_cnn"), "fd_digits_cnn")):
        ditscale("figure", "training_curves", folder, "--out", tmp_path / f"own-{metric}", "--format", "svg", *where)
        assert set(pd.read_csv(tmp_path / f"own-{metric}" / "training_curves.csv")["metric"]) == {metric}
    study.update_record(metric={"name": "fd_digits_cnn"})
    ditscale("figure", "validation", folder, "--out", tmp_path, "--format", "svg")
    drawn = pd.read_csv(tmp_path / "validation.csv")
    assert list(drawn["score"]) == [line["score"] for line in lines[2:]]
    assert "Validation loss" in (ditscale("report", folder, "--out", tmp_path / "page") and (tmp_path / "page" / "report.html").read_text())
    side = ditscale("compare", f"{study.path}@320", f"{study.path}@640")
    assert "fd_digits_cnn" in side and "loss" in ditscale("compare", f"{study.path}@320", f"{study.path}@640", "--where", "metric=loss")


def test_a_study_without_losses_says_how_to_get_them(study):
    assert "ditscale validate" in ditscale("figure", "validation", study.path.parent, code=2)


def test_latents_are_drawn_and_flipped_by_their_number(latents, latent_values, monkeypatch):
    monkeypatch.setattr(Validation, "_check_held_out", lambda self: None)     # the one file of latents serves as both
    latent_values["data"]["flip"] = True
    latent_values["evaluation"]["validation"] = {"path": str(latents), "images": 70}
    config = resolve(latent_values, "test")
    found = Validation(config, ALONE)
    losses = found.losses(trained_weights(config))["loss"]
    again = Validation(config, ALONE).losses(trained_weights(config))["loss"]
    assert (losses == again).all() and len(set(losses)) == 70 and found.passport.normalization


def test_a_loss_that_is_not_finite_is_a_warning_and_few_draws_are_no_fault(make_config, tmp_path, capsys):
    config = make_config({"evaluation.validation.images": 5})
    run = RunDir(tmp_path / "run")
    run.create({"run_id": "run", "config": config.model_dump(mode="json")})
    validation, weights = Validation(config, ALONE), trained_weights(config)
    validation.log(run, 64, [("average", {name: p * float("nan") for name, p in weights.items()})])
    assert "the validation loss at 64 images is not finite for 5 of 5 draws" in capsys.readouterr().err and read_lines(run.evals) == []
    validation.log(run, 128, [("average", weights)])
    [line] = read_lines(run.evals)
    assert np.isfinite(line["score"]) and sum(name.startswith("loss_bucket") for name in line["values"]) == 5


@pytest.mark.parametrize("name, words", [("train.beton", "is the file that the runs train on"), ("gone.beton", "evaluation.validation.path")])
def test_a_wrong_file_is_refused_before_a_start(make_config, digits, tmp_path, repository, monkeypatch, name, words):
    monkeypatch.chdir(repository)
    config = make_config({"evaluation.validation.path": str(digits / name)}).model_dump(mode="json")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"version": 1, "name": "s", "metric": {"name": "fd_digits_cnn"}, "config": config,
                                                        "parameters": {"seed": {"values": [0]}}, "runs_dir": str(tmp_path / "runs")}))
    assert words in ditscale("launch", tmp_path / "spec.yaml", code=2) and not list((tmp_path / "runs").glob("*/*/run.json"))
