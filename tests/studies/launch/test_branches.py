"""A study with branches: launched, failed, resumed, on a queue, and as a table."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.cost.runs import training_flops
from ditscale.rundir import read_lines
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.studies.table.ledger import collect

GOLDEN = Path(__file__).parents[1] / "launchers" / "golden" / "slurm_branches.txt"


@pytest.fixture
def study(tmp_path, digits_values, repository, monkeypatch):
    """The path of a study with the lengths 320, 640 and 1280, and its runs: trunk, then branches."""
    monkeypatch.chdir(repository)

    def write(**parts):
        del digits_values["train"]["images"]
        digits_values["train"].update(branches=[320, 640, 1280], lr_schedule="wsd", checkpoint_every_images=640, precision="fp32")
        digits_values.update(evaluation={**digits_values["evaluation"], "samples": 16}, resources={"log_every_images": 64})
        spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": digits_values, "runs_dir": str(tmp_path / "runs"), **parts}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        return tmp_path / "spec.yaml", expand(load_spec(tmp_path / "spec.yaml"), "spec")
    return write


def ditscale(*words):
    return CliRunner().invoke(main, [*map(str, words)], env={"COLUMNS": "300"})


def test_launched_then_nothing_is_left_and_each_paid_for_its_own(study):
    path, (trunk, *branches) = study()
    said = ditscale("launch", path)
    assert said.exit_code == 0, said.output
    assert [planned.run.status()["state"] for planned in (trunk, *branches)] == ["done"] * 3
    times = {file: file.stat().st_mtime_ns for file in path.parent.glob("runs/study/*/*.json*")}
    assert "3 done, 0 to run" in ditscale("launch", path).output
    assert times == {file: file.stat().st_mtime_ns for file in path.parent.glob("runs/study/*/*.json*")}

    table = collect(path.parent / "runs" / "study").set_index("images_seen").sort_index()
    assert list(table.index) == [320, 640, 640, 1280]                          # no score at 256 and 512, which are only branch points
    assert set(table["trunk"]) == {trunk.run_id} and list(table["branch_images"]) in ([256, 512, 0, 0], [256, 0, 512, 0])
    for planned in branches:
        [row] = table[table["run_id"] == planned.run_id].itertuples()
        record, own = planned.run.read_record()["parent"], read_lines(planned.run.metrics)
        point = planned.config.parent.images
        assert record["run"] == trunk.run_id and record["images"] == point and min(line["images_seen"] for line in own) == point + 64
        at_point = next(line for line in read_lines(trunk.run.metrics) if line["images_seen"] == point)
        assert row.accelerator_hours == pytest.approx(at_point["accelerator_hours"] + own[-1]["accelerator_hours"])
        assert row.train_seconds == pytest.approx(record["train_seconds"] + sum(line["seconds"] for line in own))
        assert row.train_flops == row.train_flops_per_image * row.Index and row.own_train_flops == row.train_flops_per_image * (row.Index - point)
    assert "branch from 512 images of its trunk" in ditscale("status", path).output
    said = ditscale("report", path.parent / "runs" / "study", "--out", path.parent / "report")
    assert said.exit_code == 0, said.output
    page = (path.parent / "report" / "report.html").read_text()
    assert f"256 images of {trunk.run_id}" in page and "2 runs from 1 trunk; " in page


def test_branches_without_their_trunk_are_priced_and_refused_with_the_command_that_runs_both(study):
    path, (trunk, *_) = study()
    cost = f"1 trunk ({training_flops(trunk.config, 1280):.3g} training FLOPs)"
    said = ditscale("plan", path, "train.images=[320, 640]", "--on", "H100")
    assert f"Not in the total: {cost} must run first, for 2 branches" in said.output and "saved" not in said.output
    for launcher in ((), ("--launcher", "print")):
        said = ditscale("launch", path, "seed=0", "train.images=640", *launcher)
        assert said.exit_code == 1 and said.output.splitlines() == [
            f"not started: 1 branch of {cost}, which this selection does not train. To run both: ditscale launch {path} seed=0 'train.images=[640,1280]'"]
    assert not (path.parent / "runs").exists()
    whole = ditscale("plan", path, "train.images=[640,1280]", "--on", "H100").output
    assert "Not in the total" not in whole and "saved" in whole


def test_a_failed_trunk_is_named_by_its_branches(study):
    path, (trunk, *branches) = study()
    trunk.run.path.mkdir(parents=True)
    (trunk.run.path / "checkpoints").write_text("in the way")
    said = ditscale("launch", path)
    assert said.exit_code == 1
    for planned in branches:
        assert f"not started: {planned.run_id}: its trunk {trunk.run_id} failed at " in said.output
        assert planned.run.status()["state"] == "queued"
    assert f"its trunk {trunk.run_id} failed at" in ditscale("status", path).output


@pytest.mark.slow
def test_a_failed_trunk_is_launched_again_with_its_branches(study):
    path, (trunk, *_) = study()
    trunk.run.path.mkdir(parents=True)
    (trunk.run.path / "checkpoints").write_text("in the way")
    assert ditscale("launch", path).exit_code == 1
    (trunk.run.path / "checkpoints").unlink()
    said = ditscale("launch", path)
    assert said.exit_code == 0, said.output


def test_slurm_gets_the_trunk_first_and_the_branches_at_the_next_launch(study, tmp_path):
    """The commands, with what changes from machine to machine replaced."""
    path, (trunk, *branches) = study()
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump({"name": "somewhere", "partition": "main"}))
    first = ditscale("launch", path, "--site", site, "--launcher", "print").output
    for planned in branches:
        checkpoint = trunk.run.checkpoints / f"images-{planned.config.parent.images:012d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "masters.safetensors").touch()
    trunk.run.set_status("running", images_seen=640)
    second = ditscale("launch", path, "--site", site, "--launcher", "print").output
    assert runs_in(first) == [trunk.run_id] and set(runs_in(second)) == {planned.run_id for planned in (trunk, *branches)}
    found = "\n".join(line for line in first.splitlines() if line.startswith("# ") and not any(word in line for word in (".sh", "Written by", "# in /")))
    found = found.replace(trunk.run_id, "TRUNK")
    for number, planned in enumerate(branches):
        found = found.replace(planned.run_id, f"BRANCH-{number}")
    assert found + "\n" == GOLDEN.read_text()


def runs_in(script):
    return [line.strip() for line in script.splitlines() if line.startswith("  DiT-")]


def score_all(runs, gain=1.0):
    """Ends of all runs: a score that falls as images^-0.5, with a luck of each seed that a trunk's branches share."""
    for planned in runs:
        planned.run.create({"config": planned.config.model_dump(mode="json"), "cost": {
            "parameters": 1, "tokens": 4, "macs": 10, "train_flops_per_image": 60}})
        seed, images = planned.config.seed, planned.config.train.images
        better = gain if planned.config.objective.name == "masked" else 1.0
        score = 10 * (1 + 0.02 * seed) * (better * images / 320) ** -0.5
        line = {"images_seen": images, "metric": "fd_digits_cnn", "score": score, "passport": {"samples": 16}}
        early = {**line, "images_seen": images // 2, "score": 99.0}           # before the decay
        planned.run.evals.write_text("".join(json.dumps(one) + "\n" for one in ([line] if planned.config.parent else [early, line])))
        planned.run.set_status("done", images_seen=images)


def test_a_multiplier_is_between_the_ends_of_trunks(study):
    from ditscale.studies.table.study import Study

    path, runs = study(parameters={"seed": {"values": [0, 1, 2]}}, bundles={"kind": {"a": {"objective.name": "baseline"}, "b": {"objective.name": "masked"}}})
    score_all(runs, gain=2.0)
    found = Study.load(path.parent / "runs" / "study").multiplier("masked", cost="images_seen")
    assert found.status.ok and found.overall.value == pytest.approx(2.0) and found.overall.seeds == (3, 3) and found.overall.verdict == "REAL"
    assert found.overall.freedom < 5                                           # of trunks; as runs of their own the lengths would be more


def test_seeds_of_a_study_are_its_trunks(study):
    """Noise, laws and frontiers count trunks: branches of one share its luck."""
    from ditscale.studies.table.study import Study

    path, runs = study(parameters={"seed": {"values": [0, 1, 2]}})
    score_all(runs)
    noise = Study.load(path.parent / "runs" / "study").where(final=True).noise()
    assert noise.cells == 3 and noise.freedom == 2 and noise.luck_share == pytest.approx(1)    # with branches as runs it would be 6
