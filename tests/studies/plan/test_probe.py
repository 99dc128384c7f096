"""``plan --probe``: real steps of each distinct shape, kept in the study, and what a shape that cannot be measured costs the rest."""

import json
import sys

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.cost.hardware import Machine, this_machine
from ditscale.dotted import set_key
from ditscale.studies.plan.plan import PROBED, plan_rows
from ditscale.studies.plan.probe import Probe, shape_of
from ditscale.studies.spec.spec import expand, load_spec

pytestmark = pytest.mark.usefixtures("in_repository")


@pytest.fixture
def in_repository(repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture
def study(tmp_path, digits_values):
    """The spec of two runs that differ in seed; returns its path and the study's directory."""
    digits_values["train"].update(images=64 * 16, precision="fp32")
    digits_values["evaluation"]["reference_path"] = str(tmp_path / "not made yet.npz")     # a probe scores nothing
    spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": digits_values,
            "parameters": {"model.name": {"value": "DiT-atto/8"}, "seed": {"values": [0, 1]}}, "runs_dir": str(tmp_path / "runs")}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path / "spec.yaml", tmp_path / "runs" / "study"


def plan(*arguments, code=0):
    done = CliRunner().invoke(main, ["plan", *map(str, arguments), "--wide"])
    assert done.exit_code == code, done.output
    return done.output


def times_of(said):
    """The last two columns of the runs: images/s and time left."""
    return [[cell.strip() for cell in line.split("│")[-3:-1]] for line in said.splitlines() if line.startswith("│ DiT")]


def test_a_shape_is_measured_once(study):
    spec, folder = study
    said = plan(spec, "--probe")
    assert said.count("probe 1 of 1: DiT-atto-8-baseline-flow-s") == 1 and "ms per step" in said
    [shapes] = json.loads((folder / "probes.json").read_text()).values()
    [probe] = shapes.values()
    assert 0 < probe["step_seconds"] < 5 and probe["memory_bytes"] > 2**16 and probe["micro_batch"] == 64
    assert probe["steps"] == 10                                                # of 16, without 3 to warm up, in blocks of 5
    times = times_of(said)
    assert len(times) == 2 and all(cell.endswith(" p") for row in times for cell in row)
    assert [path.name for path in folder.iterdir()] == ["probes.json"]         # no run has begun

    again = plan(spec, "--probe")
    assert "probe 1" not in again and times_of(again) == times == times_of(plan(spec))


def test_what_cannot_be_measured_is_one_line_and_the_plan_comes(study, tmp_path):
    spec, folder = study
    missing = plan(spec, "--probe", f"data.path={tmp_path / '[red]gone.beton'}")
    [line] = [line for line in missing.splitlines() if line.startswith("probe 1 of 1")]
    assert "failed: " in line and "[red]gone.beton" in line and all(cell.endswith(" ~") for row in times_of(missing) for cell in row)
    assert not (folder / "probes.json").exists()


def test_a_bad_strategy_is_refused_before_anything_is_measured(study, tmp_path):
    spec, folder = study
    (tmp_path / "wrong.json").write_text('{"zero_optimization": {"stage": 1}, "train_batch_size": 3}')
    refused = plan(spec, "--probe", f"resources.deepspeed={tmp_path / 'wrong.json'}", code=2)
    assert "train_batch_size = 3" in refused and "probe 1 of" not in refused and refused.count("\n") == 1
    assert not (folder / "probes.json").exists()


def test_a_probe_that_dies_says_why(study, monkeypatch, tmp_path):
    """What only the ranks find: here torch is no torch."""
    spec, folder = study
    (tmp_path / "torch.py").write_text("raise RuntimeError('no torch today')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(sys.path)}")
    said = plan(spec, "--probe")
    assert "failed: RuntimeError: no torch today" in said and not (folder / "probes.json").exists()


def test_what_is_wrong_is_refused(study):
    spec, folder = study
    assert "--probe measures this machine, and --on H100 plans for another" in plan(spec, "--probe", "--on", "H100", code=2)
    folder.mkdir(parents=True)
    for damaged in ("{", "[]", json.dumps({this_machine().name: {"0": {"seconds": 1}}})):
        (folder / "probes.json").write_text(damaged)
        said = plan(spec, code=2)
        assert "probes.json is damaged; remove it" in said and said.count("\n") == 1
    (folder / "probes.json").unlink()
    folder.rmdir()
    folder.write_text("a file where the study's folder should be")
    assert "cannot be written" in plan(spec, "--probe", code=2)


@pytest.mark.parametrize("key, value, same", [
    ("seed", 7, True), ("train.lr", 1e-4, True), ("train.images", 6400, True), ("train.checkpoint_every_images", 640, True),
    ("train.warmup_images", 64, True), ("train.weight_decay", 0.1, True), ("evaluation", None, True),
    ("resources.time_limit_minutes", 30.0, True), ("resources.evaluate", "separately", True),
    ("model.name", "DiT-atto/8", False), ("model.qk_norm", True, False), ("train.global_batch", 32, False),
    ("train.precision", "fp32", False), ("train.grad_clip", 1.0, False), ("train.ema_lengths", [0.05], False),
    ("objective.name", "masked", False), ("formulation.name", "ddpm", False), ("data.path", "other.beton", False),
    ("resources.deepspeed", "ds_configs/zero2.json", False), ("resources.accelerators_per_run", 2, False),
    ("resources.micro_batch", 16, False), ("resources.compile", True, False), ("resources.checkpoint_activations", True, False),
])
def test_what_a_shape_depends_on(values, key, value, same):
    before = shape_of(resolve(values, "test"))
    set_key(values, key, value)
    assert (shape_of(resolve(values, "test")) == before) == same


def test_a_plan_rests_on_the_probe_of_its_shape(study, tmp_path):
    spec, machine = study[0], Machine("cpu", "test", 1, 1e11)
    runs = expand(load_spec(spec, ("evaluation=null",)), "spec")
    rows = plan_rows(runs, machine, {shape_of(runs[0].config): Probe(0.5, 3 * 2**20, 64, 20, 2)})
    assert [row.basis for row in rows] == [PROBED, PROBED] and [row.images_per_second for row in rows] == [128, 128]
    assert rows[0].seconds_left == pytest.approx(2 + 16 * 0.5) and rows[0].probed_memory_bytes == 3 * 2**20
