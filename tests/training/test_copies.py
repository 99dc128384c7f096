"""The copies that a step does without: the numbers stay the same, and the copies are gone."""

import pytest
import torch
from safetensors.torch import load_file

from ditscale.objectives.variants import build_model
from ditscale.rundir import read_lines
from ditscale.training import copies, zero
from ditscale.training.checkpoint import list_checkpoints
from ditscale.training.layout import Layout
from ditscale.training.loop import train

pytestmark = pytest.mark.usefixtures("in_repository")

SHORT = {"train.images": 6 * 64, "train.checkpoint_every_images": 6 * 64, "train.grad_clip": 0.5}


def result(run):
    """All losses, and the last masters and EMA."""
    tensors = [load_file(list_checkpoints(run)[-1] / f"{name}.safetensors") for name in ("masters", "ema")]
    return [line["loss/generative"] for line in read_lines(run.metrics)], *tensors


def same(first, second):
    return first[0] == second[0] and all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
                                         for a, b in zip(first[1:], second[1:]))


@pytest.mark.parametrize("micro_batch", [64, 16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy", ["zero1", "zero2"])
def test_bit_for_bit_what_deepspeed_makes_with_all_its_copies(make_run, world, monkeypatch, strategy, precision, micro_batch):
    changes = {**SHORT, "train.precision": precision, "resources.micro_batch": micro_batch,
               "resources.deepspeed": f"ds_configs/{strategy}.json"}
    config, spared = make_run("spared", changes)
    train(config, spared, world)
    monkeypatch.setattr(copies, "share_weights", lambda engine: None)
    monkeypatch.setattr(copies, "spare_flattening", lambda engine: False)
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


def test_the_gradients_of_stage_1_are_found_end_to_end(make_run, world, monkeypatch):
    """In every step, so DeepSpeed has nothing to flatten."""
    found, end_to_end = [], copies._end_to_end
    monkeypatch.setattr(copies, "_end_to_end", lambda parts, numel: found.append(end_to_end(parts, numel)) or found[-1])
    config, run = make_run(changes=SHORT)
    train(config, run, world)
    assert len(found) == 6 and all(flat is not None for flat in found)


def test_end_to_end():
    whole = torch.arange(12.0)
    a, b, c = whole[:4].view(2, 2), whole[4:5], whole[5:9]
    flat = copies._end_to_end([a, b, c], 9)
    assert torch.equal(flat, whole[:9]) and flat.data_ptr() == whole.data_ptr()
    assert torch.equal(copies._end_to_end([b, c], 5), whole[4:9])                # a rank's part begins inside a parameter
    assert copies._end_to_end([a, c], 8) is None                               # a gap
    assert copies._end_to_end([b, a], 5) is None                               # another order
    assert copies._end_to_end([a, b], 6) is None                               # padding is missing
    assert copies._end_to_end([a.t(), b], 5) is None                           # not in the order of its elements
    assert copies._end_to_end([a, b.clone()], 5) is None                       # elsewhere in memory
