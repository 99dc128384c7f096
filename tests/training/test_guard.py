"""A gradient that is not finite: the step is passed over on all ranks, counted and named; too many in a row end the run."""

import math

import pytest
import torch

from ditscale import randomness
from ditscale.data.loader import StreamLoader
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.rundir import read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints, load_ema
from ditscale.training.guard import TooManySkipped
from ditscale.training.loop import train
from ditscale.training.telemetry import Spikes

pytestmark = pytest.mark.usefixtures("in_repository")

FAULT = "blocks.0.attn.qkv.weight"                                              # what `poison` spoils


def losses(run):
    return [line["loss/generative"] for line in read_lines(run.metrics)]


def plain_loop(config, skipped):
    """A few lines of PyTorch that leave out the updates of some steps (counted from 1)."""
    objective, model, found = make_objective(config), build_model(config), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, weight_decay=0.0)
    batches = StreamLoader(config.data.path, seed=config.seed, global_batch=64, micro_batch=64, end_images=config.train.images,
                          backend="mmap")
    for step, (images, labels, positions) in enumerate(batches, start=1):
        draws = randomness.draw(config.seed, positions, objective.streams)
        loss = objective(model, CleanBatch(images.float() / 127.5 - 1, labels), draws).losses["generative"]
        optimizer.zero_grad()
        loss.backward()
        if step not in skipped:
            optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("strategy, clip", [("zero0", 0.0), ("zero1", 0.0), ("zero1", 100.0), ("zero2", 0.0), ("zero3", 0.0),
                                            ("zero2_offload", 0.0)])
def test_one_bad_step_is_skipped_counted_and_named(make_run, world, poison, capsys, strategy, clip):
    poison(4)
    config, run = make_run(changes={"train.precision": "fp32", "resources.deepspeed": f"ds_configs/{strategy}.json",
                                    "train.grad_clip": clip})
    assert train(config, run, world)
    assert losses(run) == pytest.approx(plain_loop(config, skipped={4}), abs=1e-6)
    lines = read_lines(run.metrics)
    assert [line["skipped_steps"] for line in lines] == [0] * 3 + [1] * 7
    assert ["grad_norm" in line for line in lines] == [True] * 3 + [False] + [True] * 6
    assert lines[3]["skipped"] == (f"1 step, the first after 192 images: the gradient was not finite in {FAULT} "
                                   f"(1 of {len(load_ema(list_checkpoints(run)[-1]))} parameters)")
    assert f"skipped: {lines[3]['skipped']}" in capsys.readouterr().out
    assert all(torch.isfinite(value).all() for value in load_ema(list_checkpoints(run)[-1]).values())


def test_a_run_with_a_skipped_step_resumes_bit_for_bit(make_run, world, poison):
    """AdamW's bias correction counts the steps that it took."""
    poison(4)
    config, whole = make_run("whole")
    train(config, whole, world)
    poison(4)
    config, parts = make_run("parts")
    steps = iter(range(1, 100))
    assert not train(config, parts, world, stop=lambda: next(steps) >= 6)
    assert train(config, parts, world)
    assert losses(parts) == losses(whole)
    first, second = (load_ema(list_checkpoints(run)[-1], "masters") for run in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("strategy", ["zero1", "zero3"])
def test_a_bad_step_in_bf16_leaves_the_weights_as_they_were(make_run, world, poison, strategy):
    changes = {"resources.deepspeed": f"ds_configs/{strategy}.json", "train.ema_decay": 0.0, "train.checkpoint_every_images": 64}
    poison(4)
    config, run = make_run(changes=changes)
    assert train(config, run, world)
    before, after, later = (load_ema(path) for path in list_checkpoints(run)[2:5])
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(later[name], after[name]) for name in before)


def test_a_bad_micro_batch_spoils_its_whole_step_only(make_run, world, poison):
    poison(6)                                                                     # the second of two in step 3
    config, run = make_run(changes={"train.precision": "fp32", "resources.micro_batch": 32})
    assert train(config, run, world)
    assert losses(run) == pytest.approx(plain_loop(config, skipped={3}), abs=2e-6)


def test_two_ranks_skip_together(make_run, on_ranks):
    """One NaN in one parameter on rank 1 only."""
    config, run = make_run(changes={"train.precision": "fp32", "resources.accelerators_per_run": 2})
    on_ranks(2, run, poison=f"1 4 {FAULT}")
    assert losses(run) == pytest.approx(plain_loop(config, skipped={4}), abs=2e-6)
    assert read_lines(run.metrics)[-1]["skipped_steps"] == 1 and FAULT in read_lines(run.metrics)[3]["skipped"]


def test_too_many_in_a_row_go_back_before_they_began(make_run, world, poison):
    """Bad from step 6 to 8, a checkpoint at 7: what is taken up is the one at step 5."""
    changes = {"train.precision": "fp32", "resources.skip_limit": 3, "train.checkpoint_every_images": 64}
    config, whole = make_run("whole", changes)
    assert train(config, whole, world)
    poison(6, 7, 8)
    config, run = make_run("run", changes)
    with pytest.raises(TooManySkipped, match=f"3 steps skipped in a row after 320 images .* {FAULT}") as error:
        train(config, run, world)
    assert error.value.images == 320
    assert train(config, run, world, last_good_images=320)
    assert losses(run) == losses(whole)


def test_a_run_that_would_end_with_skipped_steps_is_not_done(make_run, world, poison):
    poison(9, 10)
    config, run = make_run()
    with pytest.raises(TooManySkipped, match="2 steps skipped in a row after 512 images"):
        train(config, run, world)
    poison(10)
    config, run = make_run("one")
    assert train(config, run, world)


def test_a_lasting_fault_ends_the_run_with_a_report(make_run, poison, repository):
    from ditscale.studies.launch.worker import work

    poison(*range(6, 1000))
    _, run = make_run(changes={"resources.skip_limit": 3, "evaluation": None})
    assert work(run) == 1
    status = run.status()
    assert status["state"] == "failed" and "3 steps skipped in a row after 320 images (resources.skip_limit 3)" in status["reason"]
    assert FAULT in status["reason"]


def test_spikes_are_far_above_the_last_values():
    spikes = Spikes()
    assert not any(spikes.add(1.0 + 0.01 * (i % 5)) for i in range(40))
    assert not spikes.add(1.06)
    assert spikes.add(1.5)
    assert not spikes.add(0.2) and not spikes.add(math.nan)
