"""`ditscale collect --add`: one table of a study that is run in parts, with what is left of its run directories."""

import shutil

import pandas as pd
import pytest
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.rundir import RunDir, append_line
from ditscale.studies.table import ledger
from ditscale.studies.table.study import Study


@pytest.fixture
def study(tmp_path, benchmark_module):
    """A folder with four runs of two models."""
    folder = tmp_path / "runs" / "parts"
    benchmark_module("made_study").write_study(folder, ("DiT-atto/4", "DiT-femto/4"), seeds=(0, 1), evaluations=2)
    return folder


def collect(*words):
    done = CliRunner().invoke(main, ["collect", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_parts_in_any_order_give_the_table_of_the_whole(study, tmp_path):
    whole, table = tmp_path / "whole.csv", tmp_path / "studies" / "parts" / "table.csv"
    assert collect(study, "--out", whole).exit_code == 0
    runs, away = sorted(study.iterdir()), tmp_path / "away"
    for part in (runs[2:], runs[:2], runs[1:3]):
        for run in runs:
            if run not in part:
                shutil.move(run, away / run.name)
        done = collect(study, "--out", table, "--add")
        assert done.exit_code == 0, done.output
        for run in runs:
            if run not in part:
                shutil.move(away / run.name, run)
    assert done.stdout == f"8 rows: {table} (2 runs of {study}, 2 only in the table)\n"
    assert table.read_bytes() == whole.read_bytes()
    pd.testing.assert_frame_equal(Study.load(table.parent).table()[[*ledger.COLUMNS]], Study.load(study).table()[[*ledger.COLUMNS]], check_dtype=False)


def test_a_run_in_the_study_replaces_its_rows_and_no_other(study, tmp_path):
    table = tmp_path / "table.csv"
    collect(study, "--out", table)
    before, run = table.read_text().splitlines(), next(iter(sorted(study.iterdir())))
    (run / "evals.jsonl").write_text((run / "evals.jsonl").read_text().replace('"score": ', '"score": 1'))
    for other in study.iterdir():
        if other != run:
            shutil.rmtree(other)
    assert collect(study, "--out", table, "--add").exit_code == 0
    after = table.read_text().splitlines()
    assert len(after) == len(before) and {line.split(",")[0] for line in {*before} ^ {*after}} == {run.name}


def test_a_finished_run_is_not_replaced_by_its_beginning(study, tmp_path):
    table = tmp_path / "table.csv"
    collect(study, "--out", table)
    before, run = table.read_bytes(), RunDir(next(study.iterdir()))
    run.evals.write_text(run.evals.read_text().splitlines()[0] + "\n")
    run.set_status("running", images_seen=5120)
    done = collect(study, "--out", table, "--add")
    assert table.read_bytes() == before and f"1 run of {study} not taken, as finished in the table and not there: {run.run_id}" in done.stdout


def test_columns_of_both_are_kept(study, tmp_path):
    table = tmp_path / "table.csv"
    collect(study, "--out", table)
    text = pd.read_csv(table, dtype=str, keep_default_na=False)
    text.assign(**{"values.sfid": "7.10"}).drop(columns=["forecast_basis", "git_commit"]).to_csv(table, index=False)
    first = sorted(study.iterdir())[0]
    for other in study.iterdir():
        if other != first:
            shutil.rmtree(other)
    append_line(first / "evals.jsonl", {"images_seen": 10240, "metric": "loss", "score": 0.5, "values": {"kid": 0.25}, "passport": {"metric": "loss"},
                                        "passport_id": "p"})
    assert collect(study, "--out", table, "--add").exit_code == 0
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    assert list(rows)[-2:] == ["values.sfid", "values.kid"] and list(rows)[:-2] == [*ledger.COLUMNS] and len(rows) == 9
    assert (rows[rows["run_id"] != first.name][["values.sfid", "values.kid", "git_commit"]] == ["7.10", "", ""]).all(axis=None)
    assert set(rows[rows["run_id"] == first.name]["git_commit"]) == {"0123456789ab"}


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "model,score,images_seen\nDiT-S/2,9,100\n", ""])
def test_another_csv_is_refused_and_left(study, tmp_path, text):
    table = tmp_path / "table.csv"
    table.write_text(text)
    done = collect(study, "--out", table, "--add")
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1 and str(table) in done.stderr and table.read_text() == text


def test_a_table_has_no_path_of_this_machine(study, tmp_path):
    run = RunDir(sorted(study.iterdir())[0])
    run.samples.mkdir()
    (run.samples / "images-000000005120.npz").write_bytes(b"")
    collect(study, "--out", tmp_path / "elsewhere" / "table.csv")
    collect(study, "--out", tmp_path / "near.csv")
    assert str(tmp_path) not in (tmp_path / "elsewhere" / "table.csv").read_text()
    near = pd.read_csv(tmp_path / "near.csv")["sample_sheet"].dropna().tolist()
    assert near == [f"runs/parts/{run.run_id}/samples/images-000000005120.npz"]
    [sheet] = filter(None, Study.from_csv(tmp_path / "near.csv").table()["sample_sheet"])
    assert sheet == str(tmp_path / near[0])
