"""The logged movement of the weights: as computed by hand from checkpoints, equal for any ranks and stage, and without effect on training."""

import pytest
import torch
from safetensors.torch import load_file

from ditscale.rundir import read_lines
from ditscale.training import loop, movement
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.movement import Movement, kind_of

pytestmark = pytest.mark.usefixtures("in_repository")

STEPS = 4


@pytest.fixture
def make(make_run):
    """A run with a checkpoint and a log line after each of its steps."""
    def make(name, changes={}):
        return make_run(name, {"train.images": STEPS * 64, "train.checkpoint_every_images": 64, "train.ema_decay": 0.9, "train.precision": "fp32",
                               "resources.keep_checkpoints": STEPS, **changes})
    return make


def moved(run):
    return [{name: value for name, value in line.items() if name.startswith(movement.UPDATE) or name == movement.EMA}
            for line in read_lines(run.metrics)]


def squares(tensors):
    return sum(float(value.double().square().sum()) for value in tensors)


def test_what_is_logged_is_what_the_checkpoints_say(make, world):
    config, run = make("run")
    assert loop.train(config, run, world)
    masters, averages = ([load_file(path / name) for path in list_checkpoints(run)] for name in ("masters.safetensors", "ema.safetensors"))
    lines = moved(run)
    names = {f"update/{kind_of(name)}" for name in masters[0]} | {"ema_distance"}
    assert set(lines[0]) == names - {"update/modulation"}                      # all zero, so there is no ratio
    assert len(lines) == STEPS and all(set(line) == names for line in lines[1:])
    for step in range(1, STEPS):
        now, former = masters[step], masters[step - 1]
        for kind in {kind_of(name) for name in now}:
            names = [name for name in now if kind_of(name) == kind]
            by_hand = (squares(now[name] - former[name] for name in names) / squares(now[name] for name in names)) ** 0.5
            assert lines[step][f"update/{kind}"] == pytest.approx(by_hand, rel=1e-4), kind
        by_hand = (squares(averages[step][name] - now[name] for name in now) / squares(now.values())) ** 0.5
        assert lines[step]["ema_distance"] == pytest.approx(by_hand, rel=1e-4)


def test_equal_for_every_stage_and_number_of_ranks(make, on_ranks, world, monkeypatch):
    alone = make("alone")[1]
    loop.train(make("alone")[0], alone, world)
    runs = [make(f"zero{stage}", {"resources.deepspeed": f"ds_configs/zero{stage}.json", "resources.accelerators_per_run": 2})[1] for stage in range(4)]
    on_ranks(2, *runs)
    for run in runs:
        for line, expected in zip(moved(run), moved(alone), strict=True):
            assert line == pytest.approx(expected, rel=2e-3), run.path.name


def test_training_is_bitwise_the_same_without_it(make, world, monkeypatch):
    with_it, without = make("with"), make("without")
    loop.train(*with_it, world)
    monkeypatch.setattr(Movement, "before", lambda self: None)
    loop.train(*without, world)
    assert moved(with_it[1])[0] and not any(moved(without[1]))
    for path in list_checkpoints(with_it[1])[-1].glob("*.safetensors"):
        assert path.read_bytes() == (list_checkpoints(without[1])[-1] / path.name).read_bytes(), path.name


def test_a_sample_covers_a_parameter_evenly_and_the_same_for_any_cut(monkeypatch):
    """Of 1,000 weights at most 100: cut into three pieces, the same are met, in each column of a matrix of 10."""
    from ditscale.training.zero.layout import Piece

    monkeypatch.setattr(movement, "MOST", 100)

    def met(start, numel):
        _, place, weight = movement._sample(Piece("w", 0, 7, start, numel), 1000)
        assert weight == pytest.approx(1000 / len(range(0, 1000, place.step)))
        return [index - 7 + start for index in range(place.start, place.stop, place.step)]
    whole = met(0, 1000)
    assert whole == met(0, 333) + met(333, 334) + met(667, 333) and 80 < len(whole) <= 100
    assert {index % 10 for index in whole} == set(range(10))


def test_a_parameter_has_a_kind_by_its_name():
    kinds = {"x_embedder.proj.weight": "embedding", "blocks.3.attn.qkv.weight": "attention", "blocks.3.cross_attn.kv.bias": "attention",
             "decoder_blocks.0.mlp.fc1.weight": "mlp", "blocks.1.mlp.gate_up.weight": "mlp", "blocks.1.attn.value_mix": "attention",
             "blocks.0.adaLN_modulation.linear.weight": "modulation",
             "final_layer.adaLN_modulation.linear.weight": "modulation", "final_layer.linear.weight": "output",
             "t_embedder.mlp.0.weight": "embedding", "head.prototypes": "other"}
    assert {name: kind_of(name) for name in kinds} == kinds


def test_a_line_of_a_skipped_step_says_that_nothing_moved(make, world, poison):
    config, run = make("run")
    poison(2)
    loop.train(config, run, world)
    second = moved(run)[1]
    assert {value for name, value in second.items() if name != movement.EMA} == {0.0} and torch.isfinite(torch.tensor(second[movement.EMA]))
