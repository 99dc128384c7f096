"""Training with the backbone's switches and formulation's: the same numbers at every stage, recomputed or not, and on two ranks; scored and exported."""

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
from ditscale.training.loop import train

pytestmark = pytest.mark.usefixtures("in_repository")

LR, STEPS = 2e-3, 4
MODEL = {"name": "DiT-femto/2", "norm": "rms", "mlp": "swiglu", "positions": "rope", "value_residual": True, "patch_bottleneck": 3, "qk_norm": True}
SETTINGS = {"model": MODEL, "formulation": {"name": "flow", "prediction": "x", "time_shift": 3.0, "t_distribution": "logit_normal"},
            "objective": {"name": "masked", "decoder_depth": 2, "decoder_width": 32, "decoder_heads": 2}, "train.precision": "fp32",
            "train.images": 64 * STEPS, "train.global_batch": 64, "train.checkpoint_every_images": 64 * STEPS, "train.lr": LR}


def losses(run):
    return [[line[f"loss/{name}"] for name in ("generative", "reconstruction")] for line in read_lines(run.metrics)]


def plain_losses(config, lr=LR):
    objective, model, found = make_objective(config), build_model(config), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, fused=True)
    for images, labels, positions in StreamLoader(config.data.path, seed=config.seed, global_batch=64, micro_batch=64,
                                                 end_images=config.train.images, backend="mmap"):
        terms = objective(model, CleanBatch(images.float() / 127.5 - 1, labels), randomness.draw(config.seed, positions, objective.streams))
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        found.append([terms.losses[name].item() for name in ("generative", "reconstruction")])
    return found


def assert_near(run, expected, rel):
    assert losses(run) == [pytest.approx(one, rel=rel) for one in expected]


def test_every_stage_equals_a_plain_loop_and_two_ranks_one(make_run, world, on_ranks):
    expected = None
    for stage, recomputed in ((0, False), (1, True), (3, True)):
        config, run = make_run(f"stage {stage}", {**SETTINGS, "resources.deepspeed": f"zero{stage}", "resources.checkpoint_activations": recomputed})
        train(config, run, world)
        expected = expected or plain_losses(config)
        assert_near(run, expected, 2e-5)
    assert expected[-1][0] != pytest.approx(plain_losses(config, lr=0.0)[-1][0], rel=1e-3)  # training shows in what was compared
    pairs = [make_run(f"ranks {stage}", {**SETTINGS, "resources.deepspeed": f"zero{stage}", "resources.accelerators_per_run": 2})[1] for stage in (2, 3)]
    on_ranks(2, *pairs)
    for run in pairs:
        assert_near(run, expected, 2e-5)


@pytest.mark.slow
def test_muon_takes_gate_and_up_as_two_matrices(make_run, world, on_ranks):
    changes = {**SETTINGS, "train.optimizer": {"name": "muon"}, "resources.deepspeed": "zero1"}
    config, one = make_run("one", changes)
    train(config, one, world)
    _, two = make_run("two", {**changes, "resources.deepspeed": "zero3", "resources.accelerators_per_run": 2})
    on_ranks(2, two)
    assert_near(two, losses(one), 5e-5)
    whole = make_run("whole", {**changes, "train.optimizer": {"name": "muon", "qkv": "whole"}})
    train(*whole, world)
    first, second = (load_file(list_checkpoints(run)[-1] / "masters.safetensors")["blocks.0.mlp.gate_up.weight"] for run in (one, whole[1]))
    assert (first - second).abs().max() > 1e-4


@pytest.mark.slow
def test_compiled_blocks_give_near_losses(make_run, world):
    found = []
    for compiled in (False, True):
        config, run = make_run(f"compiled-{compiled}", {**SETTINGS, "resources.compile": compiled, "resources.checkpoint_activations": compiled})
        train(config, run, world)
        found.append(losses(run))
    assert found[1] == [pytest.approx(one, rel=1e-3) for one in found[0]]


def test_a_run_is_sampled_scored_and_exported(make_run, world, tmp_path):
    config, run = make_run("run", {**SETTINGS, "objective": {"name": "baseline"}, "formulation.time_shift": "auto", "train.precision": "bf16"})
    train(config, run, world)
    assert run.read_record()["config"]["formulation"]["time_shift"] == 0.125   # 8 x 8 x 1 numbers
    runner = CliRunner()
    for arguments in (["sample", run.path, tmp_path / "images.npz", "--images", 8], ["export", run.path, tmp_path / "weights.safetensors"]):
        done = runner.invoke(main, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
    for form in ("released", "diffusers"):
        refused = runner.invoke(main, ["export", str(run.path), str(tmp_path / form), "--format", form])
        assert refused.exit_code and "this run's model has QK-norm and norm rms and mlp swiglu" in refused.output, refused.output
