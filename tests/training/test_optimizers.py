"""An optimizer is one class and one line: config, memory, checkpoint, resume and clipping follow from what it declares."""

import subprocess
import sys
from typing import ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file

from ditscale import config as config_module
from ditscale.cost.runs import run_memory_card
from ditscale.errors import UserError
from ditscale.rundir import read_lines
from ditscale.section import UNIONS
from ditscale.training import optimizers
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import train
from ditscale.training.optimizers import Optimizer
from ditscale.training.zero.strategy import deepspeed_config

pytestmark = pytest.mark.usefixtures("in_repository")

FP32 = {"train.precision": "fp32", "train.grad_clip": 0.5}
SGD = {**FP32, "train.optimizer": {"name": "sgd", "momentum": 0.8}, "train.lr": 0.05}


def losses(run):
    return [line["loss/generative"] for line in read_lines(run.metrics)]


def files(run):
    return {path.name: path.read_bytes() for path in list_checkpoints(run)[-1].glob("*.safetensors")}


def stop_after(steps):
    calls = iter(range(1, 10**6))
    return lambda: next(calls) >= steps


class MadeUp(Optimizer):
    """Sign descent with a memory of its own, and embedders that learn at half the rate."""

    name: Literal["made_up"]
    states: ClassVar = ("memory",)

    def groups(self, parameters, scales, train):
        slow = {name: p for name, p in parameters.items() if "embedder" in name}
        return [{"params": list(slow.values()), "lr_multiplier": 0.5},
                {"params": [p for name, p in parameters.items() if name not in slow], "lr_multiplier": 1.0}]

    def build(self, groups, train):
        return SignDescent(groups, {"lr": train.lr})


class SignDescent(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                memory = self.state[p]["memory"].lerp_(p.grad / getattr(self, "grad_scale", 1.0), 0.1)
                p.sub_(group["lr"] * memory.sign() * (1 - self.found_inf))


@pytest.fixture
def register(monkeypatch):
    """Put an optimizer into the one list, as its line there would."""
    def put(kind):
        monkeypatch.setitem(optimizers.OPTIMIZERS, kind.model_fields["name"].annotation.__args__[0], kind)
        monkeypatch.setitem(UNIONS, "optimizer", optimizers.OPTIMIZERS)
        train_config, run_config = config_module.TrainConfig, config_module.RunConfig
        field, annotation = train_config.model_fields["optimizer"], train_config.model_fields["optimizer"].annotation
        kinds = optimizers.OPTIMIZERS.values()
        merged = None
        for one in kinds:
            merged = one if merged is None else merged | one
        monkeypatch.setattr(field, "annotation", merged)
        train_config.model_rebuild(force=True)
        run_config.model_rebuild(force=True)
        return lambda: (setattr(field, "annotation", annotation), train_config.model_rebuild(force=True),
                        run_config.model_rebuild(force=True))
    undo = []
    yield lambda kind: undo.append(put(kind))
    for one in undo:
        one()


@pytest.mark.parametrize("strategy", ["zero0", "zero1", "zero2", "zero3"])
def test_sgd_is_torchs_own_at_every_stage(make_run, world, strategy):
    runs = {}
    for name in ("zero0", strategy):
        config, runs[name] = make_run(f"{name}-run", {**SGD, "resources.deepspeed": f"ds_configs/{name}.json"})
        train(config, runs[name], world)
    assert losses(runs[strategy]) == pytest.approx(losses(runs["zero0"]), abs=2e-6)
    assert losses(runs[strategy])[-1] < losses(runs[strategy])[0]
    saved = load_file(list_checkpoints(runs[strategy])[-1] / "optimizer.safetensors")
    assert {name.split(".")[0] for name in saved} == {"momentum_buffer"}


@pytest.mark.parametrize("strategy", ["zero1", "zero3"])
@pytest.mark.parametrize("kind", ["sgd", "made_up"])
def test_stopped_and_resumed_is_bit_for_bit_the_same(make_run, world, register, kind, strategy):
    if kind == "made_up":
        register(MadeUp)
    chosen = SGD if kind == "sgd" else {**FP32, "train.optimizer": {"name": kind}}
    changes = {**chosen, "resources.deepspeed": f"ds_configs/{strategy}.json"}
    config, whole = make_run("whole", changes)
    assert train(config, whole, world)
    config, parts = make_run("parts", changes)
    assert not train(config, parts, world, stop=stop_after(3))
    assert train(config, parts, world)
    assert losses(parts) == losses(whole) and files(parts) == files(whole)


def test_a_groups_rate_is_the_schedules_times_its_multiplier(make_run, world, register):
    """Sign descent moves a weight by its rate in each step. The embedders have no gradient in the first: the last layer is zero."""
    register(MadeUp)
    two_steps = {**FP32, "train.optimizer": {"name": "made_up"}, "train.images": 128, "train.checkpoint_every_images": 128,
                 "train.lr": 0.01, "train.warmup_images": 0}
    config, run = make_run(changes=two_steps)
    train(config, run, world)
    from ditscale.objectives.from_config import build_model

    after, lr = load_file(list_checkpoints(run)[-1] / "masters.safetensors"), read_lines(run.metrics)[-1]["lr"]
    moved = {name: (after[name] - p).abs().max().item() for name, p in build_model(config).named_parameters()}
    assert moved["x_embedder.proj.weight"] == pytest.approx(lr / 2, rel=1e-3)
    assert moved["final_layer.linear.weight"] == pytest.approx(2 * lr, rel=1e-3)


def test_the_plan_counts_its_state(make_run, register):
    register(MadeUp)
    adamw, _ = make_run("adamw", FP32)
    made_up, _ = make_run("made_up", {**FP32, "train.optimizer": {"name": "made_up"}})
    cards = [run_memory_card(config, stage=1, offload=False, micro_batch=8) for config in (adamw, made_up)]
    from ditscale.cost.runs import run_card

    assert cards[0].states - cards[1].states == 4 * run_card(adamw).parameters


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_one_that_needs_whole_matrices_is_refused_where_it_gets_flat_parts(make_run, register, strategy):
    class Matrices(MadeUp):
        name: Literal["matrices"]
        is_elementwise: ClassVar = False

    register(Matrices)
    changes = {**FP32, "train.optimizer": {"name": "matrices"}}
    config, _ = make_run("flat", {**changes, "resources.deepspeed": f"ds_configs/{strategy}.json"})
    with pytest.raises(UserError, match=f"stage {strategy[-1]}, which gives the optimizer flat partitions, and matrices needs"):
        deepspeed_config(config, 1)
    config, _ = make_run("whole", {**changes, "resources.deepspeed": "ds_configs/zero0.json"})
    assert deepspeed_config(config, 1)


def test_one_whose_step_cannot_be_passed_over_is_refused(make_run, register):
    class Stubborn(MadeUp):
        name: Literal["stubborn"]
        scales_and_skips: ClassVar = False

    register(Stubborn)
    with pytest.raises(UserError, match="stubborn: its steps can be neither clipped nor skipped"):
        make_run(changes={"train.optimizer": {"name": "stubborn"}})


def test_a_bad_gradient_leaves_sgd_and_its_momentum_as_they_were(make_run, world, poison):
    """In the very first step, where torch would not have made the momentum yet."""
    poison(1)
    changes = {**SGD, "train.images": 64, "train.checkpoint_every_images": 64, "resources.skip_limit": 5}
    config, run = make_run(changes=changes)
    train(config, run, world)
    assert read_lines(run.metrics)[-1]["skipped_steps"] == 1
    saved = load_file(list_checkpoints(run)[-1] / "optimizer.safetensors")
    assert not any(value.any() for value in saved.values())


@pytest.mark.parametrize("changes, words", [
    ({"train.optimizer": {"name": "sdg"}}, "'train.optimizer.name' is 'sdg'; did you mean 'sgd'? Optimizers: adamw, sgd"),
    ({"train.optimizer": {"name": "sgd", "momentun": 0.9}}, "unknown key 'train.optimizer.momentun'"),
    ({"train.optimizer": {"name": "sgd", "momentum": 1.5}}, "'train.optimizer.momentum' is 1.5"),
    ({"train.optimizer": {"name": "sgd"}, "train.betas": [0.8, 0.9]}, "train.betas [0.8, 0.9] is for adamw")])
def test_what_is_wrong_is_said(make_run, changes, words):
    with pytest.raises(UserError) as said:
        make_run(changes=changes)
    assert words in str(said.value) and "\n" not in str(said.value)


def test_the_default_is_no_part_of_a_runs_identity(make_run):
    config, _ = make_run("default")
    said, _ = make_run("said", {"train.optimizer": {"name": "adamw"}})
    other, _ = make_run("other", {"train.optimizer": {"name": "sgd"}})
    assert config.science_hash() == said.science_hash() != other.science_hash() and "optimizer" not in config.science()["train"]


def test_facts_need_no_torch():
    code = "import sys, ditscale.training.optimizers, ditscale.cost.runs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
