"""muP and CompleteP under every ZeRO stage and on two ranks, against a plain loop that states the rules by name; the coordinate check."""

import re

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from ditscale import randomness
from ditscale.cli import main
from ditscale.data.loader import StreamLoader
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.rundir import read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.coordinate_check import FAILS, PASSES, measure, slopes, verdict
from ditscale.training.loop import train

SETTINGS = {"model": {"name": "DiT-2x64x2/4", "parametrization": "completep", "base_width": 32, "base_depth": 1}, "train.precision": "fp32",
            "train.images": 64 * 5, "train.global_batch": 64, "train.checkpoint_every_images": 64 * 5, "train.weight_decay": 0.1, "train.lr": 2e-3,
            "train.warmup_images": 0, "train.ema_decay": 0.5}
HIDDEN = re.compile(r"(qkv|attn\.proj|fc[12]|adaLN_modulation\.1|t_embedder\.mlp\.2|final_layer\.linear)\.weight")


def plain_losses(config):
    """AdamW in PyTorch, one group a parameter: hidden and output matrices at half the rate with twice the decay, eps by hand."""
    objective, model = make_objective(config), build_model(config)
    groups = []
    for name, p in model.named_parameters():
        m = 2 if HIDDEN.search(name) else 1
        eps = 1e-8 if name.startswith("final_layer.linear") else 1e-8 / m / (2 if m == 2 and name.startswith("blocks.") else 1)
        groups.append({"params": [p], "lr": config.train.lr / m, "eps": eps, "weight_decay": 0.1 * m})
    optimizer, found = torch.optim.AdamW(groups, fused=True), []
    for images, labels, positions in StreamLoader(config.data.path, seed=config.seed, global_batch=64, micro_batch=64,
                                                 end_images=config.train.images, backend="mmap"):
        draws = randomness.draw(config.seed, positions, objective.streams)
        loss = objective(model, CleanBatch(images.float() / 127.5 - 1, labels), draws).losses["generative"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def losses(run):
    return [line["loss/generative"] for line in read_lines(run.metrics)]


def test_every_stage_equals_a_plain_loop_and_resumes(make_run, world, on_ranks, in_repository):
    def stage(number, **more):
        return {**SETTINGS, "resources.deepspeed": f"zero{number}", **more}

    config, one = make_run("one", stage(1))
    train(config, one, world)
    expected = plain_losses(config)
    assert losses(one) == pytest.approx(expected, abs=2e-6) and expected[-1] < expected[0]
    for number in (0, 2, 3):
        config, run = make_run(f"stage {number}", stage(number))
        train(config, run, world)
        assert losses(run) == pytest.approx(expected, abs=2e-6), number
    ranks = {number: make_run(f"ranks {number}", stage(number, **{"resources.accelerators_per_run": 2})) for number in (0, 1, 3)}
    on_ranks(2, *(run for _, run in ranks.values()))
    for _, run in ranks.values():
        assert losses(run) == pytest.approx(expected, abs=2e-6)
    config, parts = make_run("parts", stage(1))
    calls = iter(range(1, 100))
    assert not train(config, parts, world, stop=lambda: next(calls) >= 3)
    assert train(config, parts, world) and losses(parts) == losses(one)
    for path in list_checkpoints(one)[-1].glob("*.safetensors"):
        for name, value in load_file(path).items():
            assert torch.equal(value, load_file(list_checkpoints(parts)[-1] / path.name)[name]), name


@pytest.fixture(scope="module")
def checked(digits):
    from ditscale.config import resolve

    def check(parametrization, **more):
        model = {"name": "DiT-2x64/2", **({} if parametrization == "standard" else {"parametrization": parametrization, "base_width": 64})}
        values = {"model": model, "data": {"name": "digits", "path": str(digits / "train.beton"), "resolution": 8, "channels": 1, "classes": 10},
                  "formulation": {"name": "flow"}, "objective": {"name": "baseline"},
                  "train": {"images": 3200, "global_batch": 32, "lr": 2e-3, "checkpoint_every_images": 3200, "precision": "fp32"}}
        return measure(resolve(values, "test"), (64, 128, 256), seeds=1, steps=5, **more)
    return check


@pytest.mark.parametrize("spectral", [False, True])
def test_coordinates(checked, spectral):
    """The oracle: at the fifth step the standard parametrization's last layers grow faster than width^0.8, muP's not at all."""
    standard, mup = (checked(kind, spectral=spectral) for kind in ("standard", "mup"))
    word, sentence = verdict(slopes(standard))
    assert word == FAILS and "final_layer.adaLN_modulation.1.weight" in sentence and "blocks.*.mlp.fc2.weight" in sentence
    if spectral:
        assert max(abs(one.slope) for one in slopes(mup) if one.layer != "y_embedder.embedding_table") < 0.15
        return
    assert {one.layer: one.slope for one in slopes(standard)}["final_layer.adaLN_modulation.1"] > 0.8
    assert verdict(slopes(mup))[0] == PASSES and max(abs(one.slope) for one in slopes(mup)) < 0.15
    losses = mup.drop_duplicates(["width", "step"]).pivot(index="step", columns="width", values="loss")
    assert losses.sub(losses[64], axis=0).abs().max().max() < 0.012


def test_the_command(digits, digits_values, tmp_path):
    import yaml

    digits_values["train"] |= {"lr": 2e-3}
    spec = {"version": 1, "name": "s", "metric": {"name": "fd_digits_cnn"}, "config": {**digits_values, "model": {"name": "DiT-2x64/2"}},
            "parameters": {"seed": {"values": [0, 1]}}}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))

    def call(*words):
        return CliRunner().invoke(main, ["coordinate-check", str(path), "--widths", "64,128,192", "--steps", "3", "--seeds", "1", *words])

    failed = call("--out", str(tmp_path / "made"))
    assert failed.exit_code == 1 and "FAILS: sizes follow the width in" in failed.output, failed.output
    assert {"coordinate_check.png", "coordinate_check.csv"} <= {made.name for made in (tmp_path / "made").iterdir()}
    for words, message in ((("--widths", "64,128"), "needs 3 widths"), (("--widths", "64,a,3"), "give numbers with commas"),
                           (("--widths", "60,128,256"), "width 60 is not a multiple of 64")):
        refused = call(*words)
        assert refused.exit_code == 2 and message in refused.output
