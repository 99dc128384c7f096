"""A study's file: expansion, identity, and what is wrong in it."""

from collections import Counter

import pytest
import yaml

from ditscale.errors import UserError
from ditscale.studies.spec.spec import expand, load_spec


@pytest.fixture
def write_spec(tmp_path, values):
    """Write a spec file with changes; returns its path."""
    def write(**changes):
        spec = {"version": 1, "name": "test-study", "metric": {"name": "fd_digits_cnn"}, "config": values,
                "parameters": {"model.name": {"values": ["DiT-atto/4", "DiT-atto/8"]}, "seed": {"values": [0, 1, 2]}},
                "runs_dir": str(tmp_path / "runs"), **changes}
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in spec.items() if value is not None}))
        return path
    return write


def runs_of(path, *overrides):
    return expand(load_spec(path, overrides), str(path))


def test_grid(write_spec):
    runs = runs_of(write_spec())
    assert [(run.config.model.name, run.config.seed) for run in runs] == [
        (name, seed) for name in ("DiT-atto/4", "DiT-atto/8") for seed in (0, 1, 2)]
    assert len({run.run_id for run in runs}) == 6
    assert runs[0].run_id.startswith("DiT-atto-4-baseline-flow-s0-")


def test_block_designs_are_named(write_spec):
    runs = runs_of(write_spec(), "seed=0", "model.name=DiT-atto/4", "model.block=in_context")
    assert runs[0].run_id.startswith("DiT-atto-4-in_context-baseline-flow-s0-")


def test_exclude(write_spec):
    runs = runs_of(write_spec(exclude=[{"model.name": "DiT-atto/8", "seed": 1}, {"seed": 2}]))
    assert [(run.config.model.name, run.config.seed) for run in runs] == [("DiT-atto/4", 0), ("DiT-atto/4", 1), ("DiT-atto/8", 0)]


def test_overrides_narrow_the_sweep_and_change_the_base(write_spec):
    runs = runs_of(write_spec(), "seed=7", "train.lr=5e-4")
    assert [(run.config.seed, run.config.train.lr) for run in runs] == [(7, 5e-4), (7, 5e-4)]


def described(runs):
    return [(run.config.model.name, run.config.objective.name, run.config.seed) for run in runs]


INCLUDED = [{"model.name": "DiT-atto/4", "objective.name": "masked"},
            {"model.name": "DiT-atto/4", "objective": {"name": "masked", "mask_ratio": 0.25}, "train.lr": 5e-4},
            {"model.name": "DiT-atto/2", "objective.name": "mdt"}]
SEED_0 = {"model.name": {"values": ["DiT-atto/4", "DiT-atto/8"]}}


def test_include_adds_one_run_each(write_spec):
    runs = runs_of(write_spec(parameters=SEED_0, exclude=[{"model.name": "DiT-atto/8"}], include=INCLUDED))
    assert described(runs) == [("DiT-atto/4", "baseline", 0), ("DiT-atto/4", "masked", 0), ("DiT-atto/4", "masked", 0),
                               ("DiT-atto/2", "mdt", 0)]
    assert [run.config.train.lr for run in runs] == [1e-3, 1e-3, 5e-4, 1e-3]
    assert runs[2].config.objective.mask_ratio == 0.25
    assert described(runs_of(write_spec(parameters=None, include=[{"seed": 3}]))) == [("DiT-atto/4", "baseline", 3)]


@pytest.mark.parametrize("overrides, wanted", [
    (["objective.name=mdt"], [("DiT-atto/2", "mdt", 0)]),                       # only include sets this key
    (["model.name=DiT-atto/4", "objective.name=baseline"], [("DiT-atto/4", "baseline", 0)]),
    (["model.name=DiT-atto/8"], [("DiT-atto/8", "baseline", 0)]),
    (["train.lr=5e-4", "model.name=DiT-atto/4"], [("DiT-atto/4", "masked", 0)]),
    (["objective.mask_ratio=0.25"], [("DiT-atto/4", "masked", 0)]),
    (["model.name=[DiT-atto/8, DiT-atto/2]"], [("DiT-atto/8", "baseline", 0), ("DiT-atto/2", "mdt", 0)]),
    (["objective.name=discriminative", "model.name=DiT-atto/2"], [("DiT-atto/2", "discriminative", 0)]),
    (["model.name=DiT-femto/2", "objective.name=mdt"], [("DiT-femto/2", "mdt", 0)]),
    (["seed=4", "model.name=DiT-atto/8"], [("DiT-atto/8", "baseline", 4)]),      # no key of this study: set in every run
])
def test_overrides_keep_the_runs_that_match_or_set_the_key(write_spec, overrides, wanted):
    assert described(runs_of(write_spec(parameters=SEED_0, include=INCLUDED), *overrides)) == wanted


def test_run_ids_do_not_depend_on_resources(write_spec):
    path = write_spec()
    assert [r.run_id for r in runs_of(path)] == [r.run_id for r in runs_of(path, "resources.accelerators_per_run=2")]


@pytest.mark.parametrize("changes, words", [
    ({"parametrs": {}}, "unknown key 'parametrs'; did you mean 'parameters'"),
    ({"version": 2}, "'version' is 2"),
    ({"name": "../escape"}, "'name' is '../escape'"),
    ({"name": "a b"}, "'name' is 'a b'"),
    ({"name": None}, "'name' is missing"),
    ({"parameters": {"seed": {"values": []}}}, "'values' is empty"),
    ({"parameters": {"seed": {"values": [0, 0]}}}, "two runs of the study are the same"),
    ({"parameters": {"seed": {"vals": [0]}}}, "unknown key 'parameters.seed.vals'"),
    ({"parameters": {"seeed": {"value": 0}}}, "unknown key 'seeed'; did you mean 'seed'"),
    ({"exclude": [{"sed": 1}]}, "exclude names 'sed'"),
    ({"exclude": [{"seed": 0}, {"seed": 1}, {"seed": 2}]}, "no runs"),
    ({"config": {}}, "'data' is missing"),
    ({"include": [{"seed": 1, "model.name": "DiT-atto/4"}]}, "two runs of the study are the same"),
    ({"include": [{"train.lrr": 1}]}, "unknown key 'train.lrr'; did you mean 'lr'"),
    ({"include": [{"train.lr.x": 1}]}, "'train.lr.x' cannot be set: 'lr' is a value"),
    ({"include": [{"objective.mask_ratio": 0.5}]}, "for objective baseline; it is an option of masked, mdt, discriminative, sprint"),
    ({"include": {"seed": 7}}, "'include' is {'seed': 7}"),
])
def test_mistakes_are_named(write_spec, changes, words):
    with pytest.raises(UserError) as error:
        runs_of(write_spec(**changes))
    assert words in str(error.value) and "spec.yaml" in str(error.value)


def test_shipped_sweeps_are_valid(repository):
    sweeps = sorted((repository / "sweeps").glob("*.yaml"))
    assert sweeps
    for path in sweeps:
        assert runs_of(path)


def test_the_demo_is_the_grid_that_the_readme_promises(repository):
    runs = runs_of(repository / "sweeps/digits_demo.yaml")
    assert {run.config.model.name for run in runs} == {f"DiT-{size}/{patch}" for size in ("atto", "femto", "pico", "nano") for patch in (2, 4, 8)}
    assert f"{len(runs)} small runs" in (repository / "README.md").read_text()
    seeds = Counter(run.config.objective.name for run in runs if run.config.model.name == "DiT-femto/2")
    assert set(seeds.values()) == {3} and len(seeds) == 4
    assert {run.config.model.name for run in runs if run.phase == "rungs"} == {run.config.model.name for run in runs} - {"DiT-nano/2"}
