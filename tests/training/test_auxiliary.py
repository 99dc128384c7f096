"""Auxiliary losses in the training loop: against a plain PyTorch loop, after a stop, at every ZeRO stage, on any micro batches and ranks."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from ditscale import randomness
from ditscale.data.loader import StreamLoader
from ditscale.errors import UserError
from ditscale.evaluation.export import export
from ditscale.models.convert import load
from ditscale.objectives.auxiliary.repa.cache import Asked, make_features
from ditscale.objectives.from_config import build_model, inference_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.rundir import read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import train

pytestmark = pytest.mark.usefixtures("in_repository")

LOSSES = [{"name": "dispersive", "group": 8, "block": 3}, {"name": "contrastive", "group": 4},
          {"name": "sra", "block": 2, "teacher_momentum": 0.8}, {"name": "sra2", "block": 1}]
ALL = {"objective": {"name": "baseline", "with": LOSSES}, "train.images": 320}
FP32 = {**ALL, "train.precision": "fp32"}
NAMES = ["generative", "dispersive", "contrastive", "sra", "sra2"]


@pytest.fixture
def stage(tmp_path):
    """``stage(3)``: the changes that make a run's strategy one of this ZeRO stage."""
    def write(number):
        path = tmp_path / f"zero{number}.json"
        path.write_text(json.dumps({"zero_optimization": {"stage": number}}))
        return {"resources.deepspeed": str(path)}
    return write


def losses(run):
    """The losses of each line of metrics."""
    return [{name.removeprefix("loss/"): value for name, value in line.items() if name.startswith("loss/")} for line in read_lines(run.metrics)]


def saved(run, name):
    return load_file(list_checkpoints(run)[-1] / f"{name}.safetensors")


def assert_near(run, other, tolerance):
    """Losses, weights, averages and the teacher."""
    for expected, found in zip(losses(other), losses(run), strict=True):
        assert found == pytest.approx(expected, abs=max(tolerance, 1e-12)) and list(found) == sorted(NAMES)
    for name in ("masters", "ema", "teacher"):
        first, second = saved(run, name), saved(other, name)
        assert first.keys() == second.keys()
        for key in first:
            if not key.endswith("attn.qkv.bias"):                              # the keys' bias has a gradient of rounding noise, which AdamW scales up
                assert torch.allclose(first[key], second[key], rtol=0, atol=tolerance), (name, key)


def plain_loop(config):
    """The same training in plain PyTorch, whole batches: the losses of each step, the last weights and the teacher's."""
    objective, model = make_objective(config), build_model(config)
    objective.teacher = build_model(config).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, weight_decay=0.0)
    history = []
    for images, labels, positions in StreamLoader(config.data.path, seed=config.seed, global_batch=64, micro_batch=64,
                                                  end_images=config.train.images, backend="mmap"):
        draws = randomness.draw(config.seed, positions, objective.streams)
        found = objective(model, CleanBatch(images.float() / 127.5 - 1, labels, 64 * len(history)), draws).losses
        optimizer.zero_grad()
        sum(found.values()).backward()
        optimizer.step()
        with torch.no_grad():
            for mine, student in zip(objective.teacher.parameters(), model.parameters(), strict=True):
                mine.mul_(0.8).add_(student, alpha=0.2)
        history.append({name: value.item() for name, value in found.items()})
    return history, dict(model.named_parameters()), dict(objective.teacher.named_parameters())


@pytest.mark.parametrize("number, micro_batch", [(1, 64), (2, 8), (3, 16)])
def test_equals_a_plain_loop_in_fp32(make_run, world, stage, number, micro_batch):
    config, run = make_run(changes={**FP32, **stage(number), "resources.micro_batch": micro_batch})
    assert train(config, run, world)
    history, weights, teacher = plain_loop(config)
    for found, expected in zip(losses(run), history, strict=True):
        assert found == pytest.approx(expected, abs=1e-5) and sorted(found) == sorted(NAMES)
    for name, expected in (("masters", weights), ("teacher", teacher)):
        found = saved(run, name)
        for key, value in expected.items():
            if not key.endswith("attn.qkv.bias"):
                assert torch.allclose(found[key], value, rtol=0, atol=2e-5), (name, key)


def test_stopped_and_resumed_is_bit_for_bit_the_same(make_run, world):
    """In bf16, with SRA's teacher."""
    changes = {**ALL, "resources.micro_batch": 32}
    config, whole = make_run("whole", changes)
    assert train(config, whole, world)
    config, parts = make_run("parts", changes)
    steps = iter(range(1, 100))
    assert not train(config, parts, world, stop=lambda: next(steps) >= 3) and train(config, parts, world)
    assert losses(parts) == losses(whole)
    files = {path.name for path in list_checkpoints(whole)[-1].glob("*.safetensors")}
    assert files == {f"{name}.safetensors" for name in ("masters", "optimizer", "ema", "teacher")}
    for name in files:
        first, second = (list_checkpoints(run)[-1] / name for run in (whole, parts))
        assert first.read_bytes() == second.read_bytes(), name


def test_other_stages_equal_stage_1(make_run, world, stage):
    """Stage 0 in fp32; 2 and 3 in bf16: stage 3 adds a tapped block's three gradients in another order, so it is near."""
    runs = {}
    for name, number, precision in (("fp32", 1, "fp32"), ("zero0", 0, "fp32"), ("bf16", 1, "bf16"), ("zero2", 2, "bf16"), ("zero3", 3, "bf16")):
        config, runs[name] = make_run(name, {**ALL, "train.images": 192, "train.precision": precision, **stage(number)})
        train(config, runs[name], world)
    assert_near(runs["zero0"], runs["fp32"], 1e-6)
    assert_near(runs["zero2"], runs["bf16"], 0)
    for expected, found in zip(losses(runs["bf16"]), losses(runs["zero3"]), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("number", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_ranks_equal_one(make_run, world, on_ranks, stage, number):
    changes = {**FP32, "evaluation": None, "train.images": 192, **stage(number)}
    config, one = make_run("one", changes)
    train(config, one, world)
    _, two = make_run("two", {**changes, "resources.accelerators_per_run": 2, "resources.micro_batch": 16})
    on_ranks(2, two)
    assert_near(two, one, 1e-5)


@pytest.mark.parametrize("option", ["checkpoint_activations", pytest.param("compile", marks=pytest.mark.slow)])
def test_blocks_that_are_recomputed_or_compiled(make_run, world, option):
    runs = []
    for on in (False, True):
        config, run = make_run(f"{option}-{on}", {**FP32, "train.images": 128, f"resources.{option}": on})
        train(config, run, world)
        runs.append(run)
    assert_near(*runs, 2e-5)


@pytest.mark.parametrize("number", [1, 3])
def test_repa_with_the_demos_encoder_ends_where_it_should(make_run, world, stage, digits, number):
    """Its head gets no gradient from then on, and training goes on as without it."""
    repa = {"name": "repa", "encoder": "ditscale.evaluation.extractors.feature_maps:digits_cnn", "feature_width": 64, "encoder_macs": 1787904,
            "encoder_path": str(digits / "digits_cnn.safetensors"), "stop_images": 128}
    config, run = make_run(changes={**FP32, "objective": {"name": "baseline", "with": [repa]}, "train.images": 256, **stage(number)})
    assert train(config, run, world)
    assert [sorted(line) for line in losses(run)] == [["generative", "repa"]] * 2 + [["generative"]] * 2
    assert losses(run)[1]["repa"] < losses(run)[0]["repa"] < 0


def test_a_missing_encoder_is_one_line(make_run, world):
    repa = {"name": "repa", "encoder": "nowhere.at_all:encoder", "feature_width": 64, "encoder_macs": 0}
    config, run = make_run(changes={"objective": {"name": "baseline", "with": [repa]}})
    with pytest.raises(UserError, match="encoder nowhere.at_all:encoder: No module named 'nowhere'"):
        train(config, run, world)
    assert not list_checkpoints(run)


def test_exports_and_scores_are_of_the_dit_alone(make_run, world, tmp_path):
    """Every format of a baseline's weights; the validation loss is the baseline's quantity."""
    config, run = make_run(changes={**FP32, "train.images": 128})
    assert train(config, run, world)
    weights = saved(run, "ema")
    for name in ("a.safetensors", "b.pt"):
        assert export(run, tmp_path / name)
    exported = load_file(tmp_path / "a.safetensors")
    heads = {name for name in weights if name.startswith("auxiliary.")}
    assert heads and exported.keys() >= weights.keys() - heads and not exported.keys() & heads
    assert all(torch.equal(exported[name], weights[name]) for name in weights.keys() - heads)
    load(tmp_path / "b.pt")
    assert torch.load(tmp_path / "b.pt", weights_only=True).keys() == inference_model(config).state_dict().keys()


def test_stored_features_train_as_their_encoder_does(make_run, world, digits, tmp_path):
    """With flips, micro batches and a stop; features are float16."""
    for name in ("train.beton", "train.json"):
        shutil.copy(digits / name, tmp_path / name)
    weights, encoder = str(digits / "digits_cnn.safetensors"), "ditscale.evaluation.extractors.feature_maps:digits_cnn"
    make_features(tmp_path / "train.beton", tmp_path / "train.beton", Asked("cnn", encoder, {}, weights, flips=True), world.device, lambda line: None)
    kinds = {"stored": {"features": "cnn"}, "encoder": {"encoder": encoder, "encoder_path": weights, "encoder_macs": 1787904}}
    runs = {}
    for name, own in kinds.items():
        config, runs[name] = make_run(name, {**FP32, "objective": {"name": "baseline", "with": [{"name": "repa", "feature_width": 64, **own}]},
                                             "data.path": str(tmp_path / "train.beton"), "data.flip": True, "resources.micro_batch": 16})
        steps = iter(range(1, 100))
        assert not train(config, runs[name], world, stop=lambda: next(steps) >= 3) and train(config, runs[name], world)
    for stored, expected in zip(losses(runs["stored"]), losses(runs["encoder"]), strict=True):
        assert stored == pytest.approx(expected, abs=1e-4) and set(stored) == {"generative", "repa"}
