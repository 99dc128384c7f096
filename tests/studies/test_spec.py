"""A study's file: expansion, identity, and what is wrong in it."""

import pytest
import yaml

from ditscale.errors import UserError
from ditscale.studies.spec import expand, load_spec


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
    ({"parameters": {"seed": {"values": [0, 0]}}}, "two runs of the grid are the same"),
    ({"parameters": {"seed": {"vals": [0]}}}, "unknown key 'parameters.seed.vals'"),
    ({"parameters": {"seeed": {"value": 0}}}, "unknown key 'seeed'; did you mean 'seed'"),
    ({"exclude": [{"sed": 1}]}, "exclude names 'sed'"),
    ({"exclude": [{"seed": 0}, {"seed": 1}, {"seed": 2}]}, "no runs"),
    ({"config": {}}, "'data' is missing"),
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
    names = {run.config.model.name for run in runs_of(repository / "sweeps/digits_demo.yaml")}
    assert names == {f"DiT-{size}/{patch}" for size in ("atto", "femto", "pico", "nano") for patch in (2, 4, 8)}
