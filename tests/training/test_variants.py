"""Every variant in the training loop: against a plain PyTorch loop, after a stop, under ZeRO 1 and 2, on one rank and two."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ditscale import randomness
from ditscale.data.loader import StreamLoader
from ditscale.digest import file_sha256
from ditscale.objectives.discriminative.objective import Discriminative
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.rundir import read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import train
from ditscale.training.schedule import learning_rate

pytestmark = pytest.mark.usefixtures("in_repository")

VARIANTS = {
    "masked": {"name": "masked", "unmasking_images": 256},                     # no gradient for the mask token in the last steps
    "mdt": {"name": "mdt", "mask_ratio_max": 0.6},                             # two forwards before one backward
    "discriminative": {"name": "discriminative", "teacher_momentum": 0.8, "teacher_momentum_schedule": "cosine"},
    "tread": {"name": "tread"},
    "sprint": {"name": "sprint", "path_drop": 0.3, "unmasking_images": 256},
}
FP32 = {"train.precision": "fp32", "model.name": "DiT-nano/4"}


@pytest.fixture
def strategy(tmp_path):
    """The path of a strategy of a ZeRO stage."""
    def write(stage):
        path = tmp_path / f"zero{stage}.json"
        path.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        return str(path)
    return write


def stop_after(steps):
    """A stop request that comes up at the end of that many steps."""
    calls = iter(range(1, 10**6))
    return lambda: next(calls) >= steps


def terms(run):
    """The losses and watched values of each line of metrics."""
    return [{name: value for name, value in line.items() if name.startswith(("loss/", "watch/"))}
            for line in read_lines(run.metrics)]


def assert_near(first, second, tolerance):
    assert first.keys() == second.keys()
    for name in first:
        pair = [first[name], second[name]]
        if tolerance and name.endswith("attn.qkv.bias"):                          # the keys' bias moves no output: its gradient is
            pair = [torch.cat([bias.chunk(3)[0], bias.chunk(3)[2]]) for bias in pair]  # rounding noise, which AdamW scales up
        assert torch.allclose(*pair, rtol=0, atol=tolerance), name


def saved(run, name):
    return load_file(list_checkpoints(run)[-1] / f"{name}.safetensors")


def plain_loop(config):
    """The same training in plain PyTorch: the losses of each step, the last weights, the teacher's and the buffers."""
    objective, model = make_objective(config), build_model(config)
    objective.teacher = build_model(config).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, weight_decay=0.0)
    history, images_seen = [], 0
    for images, labels, positions in StreamLoader(config.data.path, seed=config.seed, global_batch=64, micro_batch=64,
                                                 end_images=config.train.images, backend="mmap"):
        draws = randomness.draw(config.seed, positions, objective.streams)
        losses = objective(model, CleanBatch(images.float() / 127.5 - 1, labels, images_seen), draws).losses
        optimizer.zero_grad(set_to_none=False)                                    # as ZeRO: no gradient is a gradient of zero
        sum(losses.values()).backward()
        optimizer.param_groups[0]["lr"] = learning_rate(config, images_seen)
        optimizer.step()
        images_seen += 64
        if objective.has_teacher:
            momentum = objective.teacher_momentum_at(images_seen)
            with torch.no_grad():
                for mine, student in zip(objective.teacher.parameters(), model.parameters(), strict=True):
                    mine.mul_(momentum).add_(student, alpha=1 - momentum)
        objective.after_step(lambda value: value)
        history.append({f"loss/{name}": value.item() for name, value in losses.items()})
    return history, dict(model.named_parameters()), dict(objective.teacher.named_parameters()), objective.buffers


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage, micro_batch", [(1, 64), (2, 32)])
def test_equals_a_plain_loop_in_fp32(make_run, world, strategy, variant, stage, micro_batch):
    """Also where a micro batch is half a batch, and where parameters get no gradient in some steps."""
    config, run = make_run(changes={**FP32, "objective": VARIANTS[variant], "resources.deepspeed": strategy(stage),
                                    "resources.micro_batch": micro_batch})
    assert train(config, run, world)
    history, weights, teacher, buffers = plain_loop(config)
    for logged, expected in zip(terms(run), history, strict=True):
        assert {name: value for name, value in logged.items() if name.startswith("loss/")} == pytest.approx(expected, abs=1e-5)
    assert_near(saved(run, "masters"), weights, 2e-5)
    if variant == "discriminative":
        assert_near(saved(run, "teacher"), teacher, 2e-5)
        assert_near(saved(run, "objective"), buffers, 1e-6)


def test_buffers_under_the_names_of_0_2_0(make_run, world):
    changes = {"objective": VARIANTS["discriminative"]}
    config, run = make_run("run", changes)
    assert not train(config, run, world, stop=stop_after(3))
    folder = list_checkpoints(run)[-1]
    buffers = load_file(folder / "objective.safetensors")
    assert any(name.startswith("center_") for name in buffers)
    save_file({name.replace("center_", "centre_"): value for name, value in buffers.items()}, folder / "objective.safetensors")
    state = json.loads((folder / "state.json").read_text())
    state["sha256"]["objective.safetensors"] = file_sha256(folder / "objective.safetensors")
    (folder / "state.json").write_text(json.dumps(state))
    assert train(config, run, world)
    _, whole = make_run("whole", changes)
    assert train(config, whole, world) and terms(run) == terms(whole)


@pytest.mark.parametrize("variant, precision", [("masked", "bf16"), ("mdt", "bf16"), ("discriminative", "bf16"),
                                                ("discriminative", "fp32"), ("tread", "bf16"), ("sprint", "fp32")])
def test_stopped_and_resumed_is_bit_for_bit_the_same(make_run, world, variant, precision):
    """Weights, averages, teacher and buffers; the stops lie before and in the masked variant's last stage."""
    changes = {"objective": VARIANTS[variant], "train.precision": precision, "resources.micro_batch": 32}
    config, whole = make_run("whole", changes)
    assert train(config, whole, world)
    config, parts = make_run("parts", changes)
    assert not train(config, parts, world, stop=stop_after(3))
    assert not train(config, parts, world, stop=stop_after(5))
    assert train(config, parts, world)
    assert terms(parts) == terms(whole)
    files = {path.name for path in list_checkpoints(whole)[-1].glob("*.safetensors")}
    assert ("teacher.safetensors" in files, "objective.safetensors" in files) == (variant == "discriminative",) * 2
    for name in files:
        first, second = (list_checkpoints(run)[-1] / name for run in (whole, parts))
        assert first.read_bytes() == second.read_bytes(), name


@pytest.mark.parametrize("variant", ["masked", "discriminative"])
def test_zero_2_equals_zero_1(make_run, world, strategy, variant):
    runs = []
    for stage in (1, 2):
        config, run = make_run(f"zero{stage}", {"objective": VARIANTS[variant], "resources.deepspeed": strategy(stage)})
        train(config, run, world)
        runs.append(run)
    one, two = runs
    assert terms(one) == terms(two)
    for path in list_checkpoints(one)[-1].glob("*.safetensors"):
        assert_near(saved(one, path.stem), saved(two, path.stem), 0)


@pytest.mark.parametrize("stage", [1, 2])
def test_two_ranks_equal_one(make_run, world, on_ranks, strategy, stage):
    """Each rank averages half of the teacher, and runs with all of it."""
    changes = {**FP32, "objective": VARIANTS["discriminative"], "evaluation": None, "resources.deepspeed": strategy(stage)}
    config, one = make_run("one", changes)
    train(config, one, world)
    _, two = make_run("two", {**changes, "resources.accelerators_per_run": 2})
    on_ranks(2, two)
    for expected, found in zip(terms(one), terms(two), strict=True):
        assert expected.keys() == found.keys()
        for name in expected:
            assert found[name] == pytest.approx(expected[name], abs=1e-5), name
    for name in ("masters", "ema", "teacher", "objective"):
        assert_near(saved(one, name), saved(two, name), 1e-5)


@pytest.mark.parametrize("ranks, micro_batch", [(2, 16), pytest.param(4, 4, marks=pytest.mark.slow)])
def test_any_ranks_and_micro_batches_route_alike(make_run, world, on_ranks, strategy, ranks, micro_batch):
    changes = {**FP32, "evaluation": None, "train.images": 384}
    cases = [{"objective": VARIANTS[name], "resources.deepspeed": strategy(stage)} for name, stage in (("tread", 3), ("sprint", 3), ("sprint", 2))]
    parts = [make_run(f"ranks-{i}", {**changes, **case, "resources.accelerators_per_run": ranks, "resources.micro_batch": micro_batch})[1]
             for i, case in enumerate(cases)]
    on_ranks(ranks, *parts)
    for i, (case, part) in enumerate(zip(cases, parts, strict=True)):
        config, one = make_run(f"one-{i}", {**changes, **case})
        train(config, one, world)
        for expected, found in zip(terms(one), terms(part), strict=True):
            assert found == pytest.approx(expected, abs=1e-5)
        for name in ("masters", "ema"):
            assert_near(saved(one, name), saved(part, name), 2e-5)


def test_a_checkpoint_without_its_teacher_is_passed_over(make_run, world):
    config, whole = make_run("whole", {"objective": VARIANTS["discriminative"]})
    train(config, whole, world)
    config, run = make_run("damaged", {"objective": VARIANTS["discriminative"]})
    train(config, run, world, stop=stop_after(7))
    (list_checkpoints(run)[-1] / "teacher.safetensors").unlink()
    with pytest.warns(UserWarning, match="skipped: teacher.safetensors is missing"):
        assert train(config, run, world)
    assert terms(run) == terms(whole)


def test_old_checkpoints_keep_only_the_ema(make_run, world):
    config, run = make_run(changes={"objective": VARIANTS["discriminative"], "train.checkpoint_every_images": 320,
                                    "resources.keep_checkpoints": 1})
    train(config, run, world)
    old, new = ({path.stem for path in checkpoint.glob("*.safetensors")} for checkpoint in list_checkpoints(run))
    assert old == {"ema"} and new == {"ema", "masters", "optimizer", "teacher", "objective"}


def test_a_run_that_collapses_says_so(make_run, world, monkeypatch):
    """In the metrics line where it is first seen, and in the status for good; a resumed run tells it where a whole one does."""
    monkeypatch.setattr(Discriminative, "warning", lambda self, watched: f"collapse at {self.images_seen} images"
                        if self.images_seen >= 256 and "teacher_entropy_cls" in watched else "")
    config, run = make_run(changes={"objective": VARIANTS["discriminative"]})
    train(config, run, world, stop=stop_after(7))
    train(config, run, world)
    told = {line["images_seen"]: line["warning"] for line in read_lines(run.metrics) if "warning" in line}
    assert told == {320: "collapse at 256 images"} and run.status()["warning"] == "collapse at 256 images"
