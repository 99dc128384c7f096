"""`--landed`: runs whose results are in a table are finished, wherever their directories are."""

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.cost.runs import training_flops
from ditscale.rundir import append_line
from ditscale.studies.launch.launch import run_record
from ditscale.studies.spec.spec import expand, load_spec


@pytest.fixture
def study(tmp_path, digits_values, repository, monkeypatch):
    """Writes a spec with these parts and the table of its runs, without their directories; returns the spec's path, its runs and the table."""
    monkeypatch.chdir(repository)

    def write(landed=2, **parts):
        path, table = tmp_path / "spec.yaml", tmp_path / "studies" / "study" / "table.csv"
        path.write_text(yaml.safe_dump({"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": digits_values,
                                        "runs_dir": str(tmp_path / "runs"), **parts}))
        spec = load_spec(path)
        runs = expand(spec, str(path))
        for planned in runs[:landed]:
            planned.run.create(run_record(spec, planned))
            append_line(planned.run.evals, {"images_seen": planned.config.train.images, "metric": "fd_digits_cnn", "score": 9.0, "passport": {"samples": 9}})
            planned.run.set_status("done", images_seen=planned.config.train.images)
        assert said("collect", tmp_path / "runs" / "study", "--out", table, "--add").exit_code == 0
        (tmp_path / "runs").rename(tmp_path / "gone")
        return path, runs, table
    return write


def said(*words):
    done = CliRunner().invoke(main, [*map(str, words)], env={"COLUMNS": "300"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


SEEDS = {"seed": {"values": [0, 1, 2]}}


def test_landed_runs_are_neither_started_nor_priced(study, tmp_path):
    path, runs, table = study(parameters=SEEDS)
    for landed in (table, table.parent):
        line = f"3 runs: 2 are in {table}, 1 to run"
        shown = said("launch", path, "--landed", landed, "--launcher", "print")
        assert shown.exit_code == 0 and line in shown.stdout and runs[2].run_id in shown.stdout and runs[0].run_id not in shown.stdout
        priced = said("plan", path, "--landed", landed, "--csv", tmp_path / "plan.csv", "--on", "H100")
        assert priced.exit_code == 0 and line in priced.stdout and pd.read_csv(tmp_path / "plan.csv")["run_id"].tolist() == [runs[2].run_id]
        listed = said("status", path, "--landed", landed)
        assert line in listed.stdout and "1 queued" in listed.stdout and runs[0].run_id not in listed.stdout
    done = said("launch", path, "seed=[0, 1]", "--landed", table)
    assert done.exit_code == 0 and done.stdout == f"2 runs: 2 are in {table}, 0 to run\n" and not (tmp_path / "runs").exists()
    power = said("plan", path, "seed=[0, 1]", "--landed", table, "--power", "2%")
    assert power.exit_code == 0 and "0 to run" in power.stdout and "this study compares nothing" in power.stdout
    alone = said("plan", path, "seed=2", "--landed", table, "--on", "H100")
    assert f"1 run: 0 are in {table}, 1 to run" in alone.stdout


def test_a_run_that_is_not_final_in_the_table_is_to_run(study):
    path, runs, table = study(parameters=SEEDS)
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    for column, value in (("final", "False"), ("images_seen", "64"), ("metric", "loss")):
        rows.assign(**{column: [value, rows[column][1]]}).to_csv(table, index=False)
        shown = said("launch", path, "--landed", table, "--launcher", "print")
        assert f"3 runs: 1 is in {table}, 2 to run" in shown.stdout, column


def rewrite(table, **columns):
    pd.read_csv(table, dtype=str, keep_default_na=False).assign(**columns).to_csv(table, index=False)


@pytest.mark.parametrize("change, message", [
    (lambda table: table.unlink(), "no file"),
    (lambda table: table.write_text("model,score,images_seen\nDiT-S/2,9,100\n"), "is not a table of `ditscale collect`: it has no column run_id"),
    (lambda table: table.write_text(table.read_text().replace("DiT-", "XiT-")), "has 2 runs, none of them of "),
    (lambda table: rewrite(table, final="maybe"), "table.csv, line 2: final 'maybe' is neither True nor False (1 more like it)"),
    (lambda table: rewrite(table, score="x"), "table.csv, line 2: score 'x' is not a number (1 more like it)"),
    (lambda table: table.write_text(table.read_text()[:-5]), "table.csv, line 3: ends in the middle; the table was cut"),
    (lambda table: table.write_text(table.read_text().rpartition(",fd_")[0] + "\n"), "table.csv, line 3: has "),
])
def test_a_table_of_something_else_is_one_line(study, change, message):
    path, _, table = study(parameters=SEEDS)
    change(table)
    for command in ("launch", "plan", "status"):
        done = said(command, path, "--landed", table)
        assert done.exit_code == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1 and not done.stdout


@pytest.fixture
def branches(study, digits_values):
    """The study with two branches of one trunk, which is landed."""
    del digits_values["train"]["images"]
    digits_values["train"].update(branches=[320, 640, 1280], lr_schedule="wsd", checkpoint_every_images=640)
    return study(landed=1)


def test_a_branch_of_a_landed_trunk_is_left_out(branches):
    path, (trunk, *_), table = branches
    done = said("launch", path, "--landed", table)
    assert done.exit_code == 1 and f"3 runs: 1 is in {table}, 0 to run" in done.stdout
    flops = training_flops(trunk.config, 1280)
    for words in ((), ("train.images=[320, 640]",)):                           # also where the trunk is not selected
        [_, line] = said("launch", path, *words, "--landed", table).stdout.splitlines()
        assert line.startswith(f"left out: 2 branches of 1 trunk of {table} ") and f"without --landed to train the trunks again ({flops:.3g} " in line


def test_the_forecast_of_the_first_launch_stays_with_its_run(branches, tmp_path):
    """A later launch sees how fast the run is, which is no forecast. The trunk has no checkpoint, so nothing is started here."""
    path, (trunk, planned, _), table = branches
    (tmp_path / "gone").rename(tmp_path / "runs")
    said("plan", path, "--csv", tmp_path / "plan.csv")
    row = pd.read_csv(tmp_path / "plan.csv").set_index("run_id").loc[planned.run_id]
    assert said("launch", path).exit_code == 1
    made = planned.run.read_record()["forecast"]
    own = planned.config.train.images - planned.config.parent.images
    assert made["train_seconds"] == pytest.approx(own / row["images_per_second"], rel=0.2) and made["basis"] == row["basis"] == "assumed" and made["device"]
    assert "forecast" not in trunk.run.read_record()
    seen = planned.config.parent.images + 64
    append_line(planned.run.metrics, {"images_seen": seen, "seconds": 500.0, "images_per_second": 1.0})
    append_line(planned.run.evals, {"images_seen": seen, "metric": "fd_digits_cnn", "score": 9.0, "passport": {"samples": 9}})
    planned.run.set_status("failed", images_seen=seen)
    assert said("launch", path).exit_code == 1 and planned.run.read_record()["forecast"] == made
    assert said("collect", tmp_path / "runs" / "study", "--out", table, "--add").exit_code == 0
    rows = pd.read_csv(table).set_index("run_id")
    assert rows.loc[planned.run_id, "forecast_train_seconds"] == made["train_seconds"] and rows["forecast_basis"].count() == 1
