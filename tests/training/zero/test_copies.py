"""The copies that a step does without: the numbers stay the same, and the copies are gone."""

import json

import pytest
import torch
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from safetensors.torch import load_file

from ditscale.objectives.from_config import build_model
from ditscale.rundir import read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import train
from ditscale.training.zero import copies, zero
from ditscale.training.zero.layout import Layout
from ditscale.training.zero.strategy import deepspeed_config

pytestmark = pytest.mark.usefixtures("in_repository")

SHORT = {"train.images": 6 * 64, "train.checkpoint_every_images": 6 * 64, "train.grad_clip": 0.5}


def result(run):
    """All losses, and the last masters and EMA."""
    tensors = [load_file(list_checkpoints(run)[-1] / f"{name}.safetensors") for name in ("masters", "ema")]
    return [[line[name] for name in line if name.startswith("loss/")] for line in read_lines(run.metrics)], *tensors


def same(first, second):
    return first[0] == second[0] and all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
                                         for a, b in zip(first[1:], second[1:]))


def reduced_by_deepspeed(monkeypatch):
    """One rank as if there were more."""
    def untouched(config, ranks):
        made = deepspeed_config(config, ranks)
        for key in ("overlap_comm", "contiguous_gradients"):
            made["zero_optimization"].pop(key, None)
        return made
    monkeypatch.setattr(zero, "_reduces_with_nobody", lambda engine: False)
    monkeypatch.setattr(zero, "deepspeed_config", untouched)


@pytest.mark.parametrize("micro_batch", [64, 16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy", ["zero1", "zero2"])
def test_bit_for_bit_what_deepspeed_makes_with_all_its_copies(make_run, world, monkeypatch, strategy, precision, micro_batch):
    changes = {**SHORT, "train.precision": precision, "resources.micro_batch": micro_batch,
               "resources.deepspeed": f"ds_configs/{strategy}.json"}
    config, spared = make_run("spared", changes)
    train(config, spared, world)
    reduced_by_deepspeed(monkeypatch)
    monkeypatch.setattr(copies, "share_weights", lambda engine: None)
    config, copied = make_run("copied", changes)
    train(config, copied, world)
    assert same(result(spared), result(copied))


@pytest.mark.parametrize("precision, shared", [("fp32", True), ("bf16", False)])
def test_masters_in_fp32_are_the_weights(make_run, world, precision, shared):
    config, _ = make_run(changes={"train.precision": precision})
    engine = zero.make_engine(build_model(config), config, 1)
    try:
        layout = Layout(engine)
        master, p = layout.masters[0], next(iter(layout.parameters.values()))
        assert (master.data_ptr() == p.data_ptr()) is shared
        zero.set_masters(engine, layout, {name: torch.full(shape, 0.25) for name, shape in layout.shapes.items()})
        assert all(bool((p == 0.25).all()) for p in layout.parameters.values())
    finally:
        zero.destroy(engine)


def test_the_gradients_of_stage_1_come_end_to_end(make_run, world, monkeypatch):
    """In every step on one rank, so DeepSpeed has nothing to flatten."""
    flats = []
    flatten = DeepSpeedZeroOptimizer._get_preflattened_grad_partition
    monkeypatch.setattr(DeepSpeedZeroOptimizer, "_get_preflattened_grad_partition",
                        lambda self, group: flats.append(flatten(self, group)) or flats[-1])
    config, run = make_run(changes=SHORT)
    train(config, run, world)
    assert len(flats) == 6 and all(flat is not None for flat in flats)


def test_a_parameter_without_a_gradient_has_a_gradient_of_zeros(make_run, world):
    """As from DeepSpeed's reduction; nothing of the flat tensor is left unwritten, its padding neither."""
    config, _ = make_run()
    engine = zero.make_engine(build_model(config), config, 1)
    try:
        layout = Layout(engine)
        used = next(name for name, shape in layout.shapes.items() if shape.numel() > 1)
        zero.backward(engine, layout.parameters[used].float().sum())
        got = {piece.name: part.clone() for piece, part in zero.gradients(engine, layout)}
        assert got.keys() == layout.shapes.keys() and bool((got.pop(used) == 1).all())
        assert not any(part.any() for part in got.values())
        flat = engine.optimizer.averaged_gradients[0].flat_partition
        assert float(flat.sum()) == layout.shapes[used].numel() and flat.numel() == layout.masters[0].numel()
    finally:
        zero.destroy(engine)


OWN = [{"overlap_comm": True}, {"overlap_comm": True, "reduce_bucket_size": 1000, "offload_optimizer": {"device": "none"}},
       {"parameter_alignment": True},
       {"contiguous_gradients": False}]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_users_own_strategy_gives_the_same_numbers(make_run, world, tmp_path, precision):
    """Stage 1 with keys that move gradients about; MDT has parameters of odd sizes, between which alignment leaves room."""
    changes = {**SHORT, "train.grad_clip": 0, "train.precision": precision, "objective": {"name": "mdt"}}
    config, shipped = make_run("shipped", changes)
    train(config, shipped, world)
    for index, keys in enumerate(OWN):
        (tmp_path / f"{index}.json").write_text(json.dumps({"zero_optimization": {"stage": 1, **keys}}))
        config, own = make_run(f"own{index}", {**changes, "resources.deepspeed": str(tmp_path / f"{index}.json")})
        train(config, own, world)
        near = {"rtol": 0, "atol": 1e-8} if "parameter_alignment" in keys else {"rtol": 0, "atol": 0}  # AdamW's vectors end elsewhere
        torch.testing.assert_close(result(own), result(shipped), **near, msg=lambda found: f"{keys}: {found}")


def test_gradient_sums_in_fp32_are_found_where_they_lie(make_run, world):
    """Stage 2 in bf16: the norm of sums in fp32 is that of the micro batches' gradients, added up in fp32."""
    changes = {**SHORT, "resources.micro_batch": 16, "resources.deepspeed": "ds_configs/zero2.json", "train.grad_sums": "fp32"}
    config, _ = make_run("by-hand", changes)
    engine = zero.make_engine(build_model(config), config, 1)
    sums, generator = {}, torch.Generator().manual_seed(0)
    try:
        layout = Layout(engine)
        weights = dict(layout.parameters.items())
        for _ in range(engine.gradient_accumulation_steps()):
            parts = [torch.randn(p.shape, generator=generator).bfloat16() for p in weights.values()]
            for name, part in zip(weights, parts, strict=True):
                sums[name] = sums.get(name, 0) + part.float() / engine.gradient_accumulation_steps()
            zero.backward(engine, sum((part * p).sum(dtype=torch.float32) for part, p in zip(parts, weights.values(), strict=True)))
            if engine.is_gradient_accumulation_boundary():
                found = {piece.name: part.clone() for piece, part in zero.gradients(engine, layout)}
            engine.step()
    finally:
        zero.destroy(engine)
    assert all(part.dtype == torch.float32 for part in found.values()) and found.keys() == sums.keys()
    for name, part in found.items():
        torch.testing.assert_close(part.view(-1), sums[name].view(-1), rtol=1e-6, atol=1e-6)
