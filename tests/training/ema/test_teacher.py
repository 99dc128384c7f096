"""The teacher beside a DeepSpeed engine: what it averages, what it runs with, and that training does not touch it."""

import json

import pytest
import torch

from ditscale.objectives.from_config import build_model
from ditscale.training.ema.ema import Teacher
from ditscale.training.zero import zero
from ditscale.training.zero.layout import Layout

BATCH = (torch.linspace(-1, 1, 4 * 64).reshape(4, 1, 8, 8), torch.linspace(1, 999, 4), torch.arange(4))
ALL = [(precision, stage) for precision in ("bf16", "fp32") for stage in (0, 1, 2, 3) if (precision, stage) != ("bf16", 0)]


@pytest.fixture(params=ALL, ids=lambda param: f"{param[0]}-zero{param[1]}")
def pair(request, make_run, world, tmp_path):
    """An engine, its teacher, and the dtype that both run in."""
    precision, stage = request.param
    strategy = tmp_path / "strategy.json"
    strategy.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    config, _ = make_run(changes={"train.precision": precision, "resources.deepspeed": str(strategy), "train.global_batch": 4})
    engine, dtype = zero.make_engine(build_model(config), config, world.size), zero.forward_dtype(config)
    yield engine, Teacher(Layout(engine), build_model(config), dtype), dtype
    zero.destroy(engine)


def state_of(engine):
    """The student's whole weights; at stage 3 a rank has parts of them."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), enabled=engine.zero_optimization_stage() == 3):
        return {name: value.clone() for name, value in engine.module.state_dict().items()}


def step(engine):
    engine.backward((engine(*BATCH) - 1).float().square().mean())
    engine.step()


def test_starts_as_the_student_does(pair):
    engine, teacher, dtype = pair
    assert {p.dtype for p in teacher.model.parameters()} == {dtype}
    mine, theirs = teacher.model.state_dict(), state_of(engine)
    assert not mine["final_layer.linear.weight"].any()                            # so the output alone would prove nothing
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype is theirs[name].dtype for name in mine)


def test_follows_the_masters_and_runs_with_its_average_rounded(pair):
    engine, teacher, dtype = pair
    expected = teacher.weights.layout.gather(teacher.masters)
    for decay in (0.9, 0.5, 0.99):
        step(engine)
        teacher.update(decay)
        masters = teacher.weights.layout.gather(teacher.masters)
        expected = {name: decay * value + (1 - decay) * masters[name] for name, value in expected.items()}
    average = teacher.weights.layout.gather(teacher.flats)
    for name, p in teacher.model.named_parameters():
        assert torch.allclose(average[name], expected[name], rtol=0, atol=1e-7), name
        assert torch.equal(p, average[name].to(dtype)), name
    assert not torch.equal(teacher.model(*BATCH), engine.module(*BATCH))
    teacher.update(0.0)
    assert torch.equal(teacher.model(*BATCH), engine.module(*BATCH))


def test_training_leaves_it_alone(pair):
    engine, teacher, _ = pair
    before = {name: p.clone() for name, p in teacher.model.named_parameters()}
    hint = teacher.model(*BATCH)
    engine.backward((engine(*BATCH) - hint - 1).float().square().mean())
    engine.step()
    assert not hint.requires_grad and not teacher.model.training
    students = {p.untyped_storage().data_ptr() for p in engine.module.parameters()}
    for name, p in teacher.model.named_parameters():
        assert torch.equal(p, before[name]), name
        assert p.grad is None and not p.requires_grad and not p._backward_hooks
        assert p.untyped_storage().data_ptr() not in students


def test_refresh_brings_the_weights_to_a_restored_average(pair):
    engine, teacher, dtype = pair
    whole = {name: torch.full_like(p, 0.3, dtype=torch.float32) for name, p in teacher.model.named_parameters()}
    teacher.weights.layout.scatter(whole, teacher.flats)
    teacher.refresh()
    assert all((p == torch.tensor(0.3).to(dtype)).all() for p in teacher.model.parameters())
