"""A ladder expands to rungs at several tokens per parameter and the target, in two phases; lengths do not depend on the variant."""

import pytest
import yaml

from ditscale.cost.runs import run_card
from ditscale.errors import UserError
from ditscale.scaling.tokens import tokens_per_parameter
from ditscale.studies.spec.phases import in_order
from ditscale.studies.spec.spec import expand, load_spec

LADDER = {"rungs": ["DiT-atto/2", "DiT-femto/2", "DiT-pico/2"], "target": "DiT-nano/2", "tokens_per_parameter": 2, "lengths": [0.5, 1, 2]}


def write(tmp_path, values, ladder, **more):
    values = {name: value for name, value in values.items() if name not in ("model", "seed")}
    values["train"] = {name: value for name, value in values["train"].items() if name != "images"}
    path = tmp_path / "ladder.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "name": "ladder", "metric": {"name": "fd_digits_cnn"}, "config": values, "ladder": ladder,
                                    "runs_dir": str(tmp_path), **more}))
    return str(path)


def test_it_expands_to_rungs_and_target_in_two_phases(tmp_path, values):
    path = write(tmp_path, values, LADDER, parameters={"seed": {"values": [0, 1]}})
    spec = load_spec(path)
    runs = expand(spec, path)
    assert len(runs) == 2 * (3 * 3 + 1)
    groups = in_order(spec, runs)
    assert [(name, len(own)) for name, own in groups] == [("rungs", 18), ("target", 2)]
    assert {run.config.model.name for run in groups[1][1]} == {"DiT-nano/2"}
    for run in runs:
        card, batch = run_card(run.config), run.config.train.global_batch
        ratio = tokens_per_parameter(run.config.train.images, card.tokens, card.parameters)
        wanted = [2] if run.phase == "target" else [1, 2, 4]
        assert any(0 <= ratio - one < batch * card.tokens / card.parameters for one in wanted)


def test_key_value_keeps_runs_and_phases(tmp_path, values):
    path = write(tmp_path, values, LADDER)
    runs = expand(load_spec(path, ("model.name=DiT-femto/2",)), path)
    assert len(runs) == 3 and {run.phase for run in runs} == {"rungs"}


@pytest.mark.parametrize("change, more, message", [
    ({"target": "DiT-femto/2"}, {}, "have a model twice"),
    ({"rungs": ["DiT-atto/2", "DiT-femto/2", "DiT-tiny/2"]}, {}, "DiT-tiny/2 takes .* a rung must be smaller than the target"),
    ({"rungs": ["DiT-atto/2", "DiT-femto/2"]}, {}, "rungs"),
    ({"lengths": [1, 1]}, {}, "lengths has an entry twice"),
    ({"lenghts": [1]}, {}, "did you mean 'lengths'"),
    ({}, {"parameters": {"model.name": {"values": ["DiT-atto/2"]}}}, "ladder decides models and lengths"),
    ({}, {"budgets": {"images": [1024]}}, "ladder decides models and lengths")])
def test_mistakes_are_one_line(tmp_path, values, change, more, message):
    path = write(tmp_path, values, {**LADDER, **change}, **more)
    with pytest.raises(UserError, match=message):
        expand(load_spec(path), path)
