"""A DeepSpeed without one of its private names: training goes on with the same numbers, or the start is refused in one line."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ditscale
from ditscale.errors import UserError
from ditscale.objectives.from_config import build_model
from ditscale.rundir import read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import train
from ditscale.training.zero import private, zero

pytestmark = pytest.mark.usefixtures("in_repository")

SHORT = {"train.images": 4 * 64, "train.checkpoint_every_images": 4 * 64, "train.precision": "fp32", "resources.micro_batch": 32}
GONE = "gone_in_the_next_version"


def remove(monkeypatch, word):
    """As if DeepSpeed had renamed it: what is looked for is not there."""
    monkeypatch.setattr(private, word, replace(getattr(private, word), name=GONE))


def outcome(make_run, world, name, strategy):
    config, run = make_run(name, {**SHORT, "resources.deepspeed": f"ds_configs/{strategy}.json"})
    assert train(config, run, world)
    lines = read_lines(run.metrics)
    return [line["loss/generative"] for line in lines], [line["grad_norm"] for line in lines], \
        load_file(list_checkpoints(run)[-1] / "masters.safetensors")


CASES = [(word, strategy) for word in private.NAMES for strategy in ("zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")
         if int(strategy[4]) in getattr(private, word).stages and getattr(private, word).instead]


@pytest.fixture(scope="module")
def complete():
    """What each strategy gives with all names."""
    return {}


@pytest.mark.parametrize("word, strategy", CASES)
def test_training_goes_on_by_the_public_way(make_run, world, monkeypatch, capsys, complete, word, strategy):
    if strategy not in complete:
        complete[strategy] = outcome(make_run, world, "complete", strategy)
    capsys.readouterr()
    remove(monkeypatch, word)
    losses, norms, masters = outcome(make_run, world, "less", strategy)
    said = [line for line in capsys.readouterr().out.splitlines() if GONE in line]
    assert len(said) == 1 and getattr(private, word).instead in said[0]
    assert losses == complete[strategy][0] and norms == pytest.approx(complete[strategy][1], rel=1e-6)
    assert all(torch.equal(value, complete[strategy][2][name]) for name, value in masters.items())


@pytest.mark.parametrize("strategy", ["zero1", "zero2_offload"])
def test_without_any_gradient_of_its_own_a_rank_gathers_whole_ones(make_run, world, monkeypatch, strategy):
    expected = outcome(make_run, world, "complete", strategy)
    for word in ("GRADIENTS", "PREFLATTENED", "FRAGMENT"):
        remove(monkeypatch, word)
    losses, norms, masters = outcome(make_run, world, "less", strategy)
    assert losses == expected[0] and norms == pytest.approx(expected[1], rel=1e-6)
    assert all(torch.equal(value, expected[2][name]) for name, value in masters.items())


def test_two_ranks_gather_whole_gradients_together(make_run, on_ranks):
    """At stage 2 a rank has parameters that the other has no part of, and all go through all of them."""
    changes = {**SHORT, "resources.deepspeed": "ds_configs/zero2.json", "resources.accelerators_per_run": 2, "resources.micro_batch": 16}
    (_, complete), (_, less) = make_run("complete", changes), make_run("less", changes)
    on_ranks(2, complete)
    on_ranks(2, less, environment={"GONE": "GRADIENTS PREFLATTENED FRAGMENT"})
    for name in ("loss/generative", "grad_norm"):
        values = [[line[name] for line in read_lines(run.metrics)] for run in (complete, less)]
        assert values[1] == (values[0] if name != "grad_norm" else pytest.approx(values[0], rel=1e-6))


def test_the_masters_of_stage_3_have_no_public_way(make_run, world, monkeypatch):
    """The optimizer's state is known by them, and it shows them one at a time, within a step."""
    remove(monkeypatch, "FLATS")
    config, _ = make_run(changes={"resources.deepspeed": "ds_configs/zero3.json"})
    with pytest.raises(UserError, match=f"has no {GONE} on .*; pip install .* or use stage 1 or 2") as said:
        zero.make_engine(build_model(config), config, 1)
    torch.nn.functional.linear = zero.LINEAR                                   # stage 3 had put its own there
    assert "\n" not in str(said.value)


def test_offloaded_masters_that_are_handed_out_as_copies_are_not_guessed(make_run, world, monkeypatch):
    import deepspeed.utils

    remove(monkeypatch, "MEMBERS")
    hand_out = deepspeed.utils.safe_get_local_fp32_param
    monkeypatch.setattr(deepspeed.utils, "safe_get_local_fp32_param", lambda p: hand_out(p).clone())
    config, run = make_run(changes={**SHORT, "resources.deepspeed": "ds_configs/zero3_offload.json"})
    with pytest.raises(UserError, match="offloaded masters cannot be found without it"):
        train(config, run, world)
    torch.nn.functional.linear = zero.LINEAR


def test_no_other_file_asks_for_a_private_name():
    words = [getattr(private, word).name for word in private.NAMES]
    words += ["single_partition_of_fp32_groups", "bit16_groups", "parallel_partitioned_bit16_groups", "partition_size", "ds_shape",
              "ds_numel", "persistent_parameters", "_partition_all_parameters", "_index_in_param_group",
              "__compatible_ops__", "_zero_padding"]
    pattern = re.compile(rf"(?<!\w)({'|'.join(words)})(?!\w)")
    root = Path(ditscale.__file__).parent
    assert not [str(path) for path in root.rglob("*.py") if path.name != "private.py" and pattern.search(path.read_text())]
