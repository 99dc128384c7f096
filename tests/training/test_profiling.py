"""A window of steps under torch's profiler: a file a rank, and the same numbers."""

import json

import pytest

from ditscale.errors import UserError
from ditscale.rundir import read_lines
from ditscale.training.loop import train

pytestmark = pytest.mark.usefixtures("in_repository")

SHORT = {"train.images": 6 * 64, "train.checkpoint_every_images": 6 * 64}


def losses(run):
    return [line["loss/generative"] for line in read_lines(run.metrics)]


def events(run, name):
    return json.loads((run.path / "profile" / name).read_text())["traceEvents"]


def test_the_window_is_recorded_and_changes_nothing(make_run, world):
    config, plain = make_run("plain", SHORT)
    train(config, plain, world)
    config, run = make_run("profiled", {**SHORT, "resources.profile_steps": [2, 4]})
    train(config, run, world)
    assert losses(run) == losses(plain) and not (plain.path / "profile").exists()
    found = [event["name"] for event in events(run, "rank-0.steps-2-4.pt.trace.json") if "name" in event]
    assert [name for name in found if name.startswith("step ")] == ["step 3", "step 4"]
    assert sum(name == "Optimizer.step#AdamW.step" for name in found) == 2 and "aten::addmm" in found


def test_a_run_that_ends_within_the_window_writes_what_there_is(make_run, world):
    calls = iter(range(1, 100))
    config, run = make_run(changes={**SHORT, "resources.profile_steps": [0, 6]})
    assert not train(config, run, world, stop=lambda: next(calls) == 3)
    found = [event.get("name", "") for event in events(run, "rank-0.steps-0-6.pt.trace.json")]
    assert found.count("Optimizer.step#AdamW.step") == 3


@pytest.mark.parametrize("window", [[4, 4], [5, 2], [5, 7], [-1, 3]])
def test_what_is_no_range_of_the_runs_steps_is_one_line(make_run, window):
    with pytest.raises(UserError) as said:
        make_run(changes={**SHORT, "resources.profile_steps": window})
    assert f"resources.profile_steps [{window[0]}, {window[1]}] is not a range of steps of this run, which has 6" in str(said.value)
    assert "\n" not in str(said.value)
