"""Phases: which runs come first, and that the others wait."""

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from ditscale.cli import main
from ditscale.cost.hardware import Machine
from ditscale.errors import UserError
from ditscale.rundir import DONE
from ditscale.studies.launch import start as start_module
from ditscale.studies.plan.plan import plan_rows
from ditscale.studies.spec.phases import in_order, runs_of_phase
from ditscale.studies.spec.spec import expand, load_spec

CPU = Machine("cpu", "test CPU", 4, 40e9, 2**34)


@pytest.fixture
def write_spec(tmp_path, digits_values, repository, monkeypatch):
    monkeypatch.chdir(repository)

    def write(phases, **changes):
        spec = {"version": 1, "name": "test-study", "metric": {"name": "fd_digits_cnn"}, "config": digits_values,
                "parameters": {"model.name": {"values": ["DiT-atto/8", "DiT-atto/4"]}, "seed": {"values": [0, 1, 2]}},
                "runs_dir": str(tmp_path / "runs"), "phases": phases, **changes}
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(spec, sort_keys=False))
        return str(path)
    return write


PILOT = {"pilot": {"model.name": "DiT-atto/4", "seed": [0, 1]}, "main": {}}


def phases_of(path, *overrides):
    spec = load_spec(path, overrides)
    return [(name, [(run.config.model.name, run.config.seed) for run in runs]) for name, runs in in_order(spec, expand(spec, path))]


def test_a_run_is_of_the_first_phase_that_takes_it(write_spec):
    assert phases_of(write_spec(PILOT)) == [
        ("pilot", [("DiT-atto/4", 0), ("DiT-atto/4", 1)]),
        ("main", [("DiT-atto/8", 0), ("DiT-atto/8", 1), ("DiT-atto/8", 2), ("DiT-atto/4", 2)])]


def test_keys_of_budgets_bundles_and_defaults_serve(write_spec, digits_values):
    del digits_values["train"]["images"]
    budgets = write_spec({"pilot": {"train.flops": 1e12}, "main": {}}, budgets={"flops": [1e12, 2e12]}, parameters={})
    assert [len(runs) for _, runs in phases_of(budgets)] == [1, 1]
    digits_values["train"]["images"] = 640
    bundles = write_spec({"first": {"train.lr": 0.01}, "then": {}}, parameters={},
                         bundles={"rate": {"low": {"train.lr": 0.001}, "high": {"train.lr": 0.01}}})
    assert [len(runs) for _, runs in phases_of(bundles)] == [1, 1]
    assert len(phases_of(write_spec({"all": {"train.grad_clip": 0.0, "train.betas": [0.9, 0.999]}}))) == 1
    del digits_values["train"]["images"]
    digits_values["train"]["flops"] = 1e12
    assert len(phases_of(write_spec({"all": {"train.flops": 1e12}}))) == 1


def test_narrowed_by_hand_a_phase_may_have_no_runs(write_spec):
    assert phases_of(write_spec(PILOT), "seed=2") == [("main", [("DiT-atto/8", 2), ("DiT-atto/4", 2)])]
    assert phases_of(write_spec(PILOT), "seed=0") == [("pilot", [("DiT-atto/4", 0)]), ("main", [("DiT-atto/8", 0)])]


def test_a_key_that_no_run_varies_may_be_changed_by_hand(write_spec, digits_values):
    path = write_spec({"first": {"train.images": digits_values["train"]["images"], "seed": 0}, "rest": {}})
    assert [name for name, _ in phases_of(path)] == ["first", "rest"]
    assert [name for name, _ in phases_of(path, "train.images=1280")] == ["rest"]


@pytest.mark.parametrize("phases, words", [
    ({"pilot": {"model.nam": "DiT-atto/4"}, "main": {}},
     "phases: pilot: 'model.nam' is not a key of the config; did you mean 'model.name'"),
    ({"pilot": {"train.copy": 1}, "main": {}}, "phases: pilot: 'train.copy' is not a key of the config"),
    ({"pilot": {"seed": 0}}, "is in none of pilot; let the last one match all others: rest: {}"),
    ({"pilot": {"seed": 7}, "main": {}}, r"phases: 'pilot' has no runs: after the earlier phases, none has {'seed': 7}"),
    ({"all": {}, "main": {}}, "phases: 'main' has no runs: after the earlier phases, none has been left"),
    ({"pilot": ["seed"]}, "phases.pilot")])
def test_wrong_phases(write_spec, phases, words):
    with pytest.raises(UserError, match=words):
        phases_of(write_spec(phases))


def test_only_one_phase(write_spec):
    path = write_spec(PILOT)
    spec = load_spec(path)
    runs = expand(spec, path)
    assert len(runs_of_phase(spec, runs, "pilot", path)) == 2
    with pytest.raises(UserError, match="no phase 'pilots'; did you mean 'pilot'. Phases: pilot, main"):
        runs_of_phase(spec, runs, "pilots", path)
    narrowed = load_spec(path, ("seed=2",))
    with pytest.raises(UserError, match="KEY=VALUE leaves no runs in phase 'pilot'"):
        runs_of_phase(narrowed, expand(narrowed, path), "pilot", path)
    with pytest.raises(UserError, match="The study has no phases"):
        runs_of_phase(load_spec(write_spec({})), runs, "pilot", path)


@pytest.fixture
def launched(write_spec, monkeypatch):
    """Start the study with a launch that does nothing; returns what it was given and what was said."""
    def start(outcomes, **changes):
        path = write_spec(PILOT, **changes)
        spec, given, answers = load_spec(path), [], iter(outcomes)
        monkeypatch.setattr(start_module, "check_inputs", lambda runs: None)
        monkeypatch.setattr(start_module, "launch", lambda spec, runs, *rest: given.append(len(runs)) or next(answers))
        console = Console(record=True, width=200)
        ended_well = start_module.start(spec, expand(spec, path), None, None, console)
        return ended_well, given, console.export_text()
    return start


def test_the_next_phase_starts_when_the_one_before_is_done(launched):
    assert launched([True, True])[:2] == (True, [2, 4])


def test_where_a_run_failed_the_phases_after_it_wait(launched):
    ended_well, given, said = launched([False])
    assert not ended_well and given == [2] and "phase pilot is not done; waiting for it: main" in said


def test_what_is_wrong_with_a_later_phase_is_said_before_the_first_starts(launched, monkeypatch):
    def places(self, site, runs, machine):
        if runs[0].phase == "main":
            raise UserError("too many ranks")
    monkeypatch.setattr("ditscale.studies.launchers.local.Launcher.places", places)
    with pytest.raises(UserError, match="too many ranks"):
        launched([])


def test_slurm_gets_the_first_phase_that_is_not_done(write_spec, monkeypatch):
    path, submitted = write_spec(PILOT), []
    spec = load_spec(path)
    phases = in_order(spec, expand(spec, path))
    monkeypatch.setattr(start_module, "_submit", lambda spec, runs, *rest: submitted.append({run.phase for run in runs}))
    console = Console(record=True, width=200)
    start_module._submit_phase(spec, phases, None, None, CPU, console)
    assert submitted == [{"pilot"}] and "main (4 runs) to be launched when it is done" in console.export_text()
    for planned in phases[0][1]:
        planned.run.create({"run_id": planned.run_id})
        planned.run.set_status(DONE, images_seen=planned.config.train.images)
    start_module._submit_phase(spec, phases, None, None, CPU, console)
    assert submitted == [{"pilot"}, {"main"}] and "to be launched" not in console.export_text()


def test_plan_and_print_show_them(write_spec, tmp_path):
    path = write_spec(PILOT)
    spec = load_spec(path)
    assert [row.phase for row in plan_rows(expand(spec, path), CPU)] == ["main"] * 3 + ["pilot"] * 2 + ["main"]
    shown = CliRunner().invoke(main, ["plan", path, "--csv", str(tmp_path / "plan.csv")])
    assert "Phase pilot: 2 runs" in shown.output and "Phase main: 4 runs" in shown.output
    assert ",phase," in (tmp_path / "plan.csv").read_text().splitlines()[0]
    printed = CliRunner().invoke(main, ["launch", path, "--launcher", "print"])
    assert printed.output.index("# phase pilot") < printed.output.index("# phase main"), printed.output
    alone = CliRunner().invoke(main, ["launch", path, "--launcher", "print", "--phase", "main"])
    assert "# phase pilot" not in alone.output and "4 runs, 4 to start" in alone.output
