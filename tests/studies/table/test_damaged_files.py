"""Files of a run in another form than ours: what cannot be used is left out and said, with file and line, and the study goes on."""

import json

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.rundir import append_line, read_lines
from ditscale.studies.launch.launch import run_record
from ditscale.studies.spec.spec import expand, load_spec

PASSPORT = {"metric": "fd_digits_cnn", "samples": 64, "guidance_scale": 1.5, "nfe": 5, "seed": 0}


@pytest.fixture
def study(tmp_path, values, repository, monkeypatch):
    """Two runs with two scores each: the spec's path and the runs."""
    monkeypatch.chdir(repository)
    spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values,
            "parameters": {"model.name": {"values": ["DiT-atto/4", "DiT-femto/2"]}}, "runs_dir": str(tmp_path / "runs")}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    spec = load_spec(path)
    runs = [planned.run for planned in expand(spec, str(path)) if not planned.run.create(run_record(spec, planned))]
    for run in runs:
        for images in (320, 640):
            append_line(run.metrics, {"images_seen": images, "seconds": 2.0, "images_per_second": 160.0, "accelerator_hours": 0.1,
                                      "loss/mse": 0.5})
            append_line(run.evals, {"images_seen": images, "metric": "fd_digits_cnn", "score": 9.0 - images / 320, "floor": 1.0,
                                    "values": {}, "error": None, "passport_id": "p", "passport": PASSPORT})
        run.set_status("done", images_seen=640)
    return path, runs


def call(*words):
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    return done


def collected(path, tmp_path):
    done = call("collect", path, "--out", tmp_path / "t.csv")
    assert done.exit_code == 0, done.output
    return pd.read_csv(tmp_path / "t.csv"), done


def test_a_whole_study_says_nothing(study, tmp_path):
    table, done = collected(study[0], tmp_path)
    assert len(table) == 4 and done.stderr == "" and done.stdout.count("\n") == 1


LINES = [("metrics", '{"images_seen": 512}', "it has no "), ("metrics", "[]", "not an object"), ("metrics", "3", "not an object"),
         ("metrics", '{"images_seen": "many", "seconds": 1, "images_per_second": 2}', "images_seen is 'many', which is not a whole number"),
         ("metrics", '{"images_seen": 512, "seconds": NaN, "images_per_second": 2}', "seconds is 'nan'"),
         ("metrics", '{"images_seen": 512, "seconds": 1, "images_per_second": 2, "loss/mse": []}', "loss/mse"),
         ("metrics", '{"images_seen": 512, "sec', "incomplete, or not JSON"),
         ("evals", '{"images_seen": 512, "metric": "fd_digits_cnn", "score": 1.0}', "it has no passport"),
         ("evals", '{"images_seen": null, "metric": "fd_digits_cnn", "score": 1.0, "passport": {}, "passport_id": ""}', "no images_seen"),
         ("evals", '{"images_seen": 1, "metric": "x", "score": "low", "passport": {}, "passport_id": ""}', "score is 'low'"),
         ("evals", '{"images_seen": 1, "metric": "x", "score": 1, "passport": [], "passport_id": ""}', "passport is '[]'"),
         ("evals", '{"images_seen": 1, "metric": "x", "score": 1, "passport": {}, "values": 3, "passport_id": ""}', "values is '3'"),
         ("evals", "null", "not an object"), ("evals", "[" * 100_000, "not JSON")]


@pytest.mark.parametrize("file, line, problem", LINES)
def test_a_line_of_another_form_is_left_out_and_said_once(study, tmp_path, file, line, problem):
    spec, runs = study
    damaged = getattr(runs[0], file)
    whole = damaged.read_text().splitlines()
    damaged.write_text("\n".join([whole[0], line, whole[1]]) + "\n")
    table, done = collected(spec, tmp_path)
    assert len(table) == 4 and sorted(table["score"]) == [7, 7, 8, 8]
    [said] = done.stderr.splitlines()
    assert said.startswith(f"warning: {damaged} line 2 is left out: ") and problem in said
    assert f"1 line of {damaged} left out" in done.stdout
    damaged.write_text("\n".join([*whole, line]) + "\n")
    for command in ("status", "plan"):
        done = call(command, spec, "--wide")
        assert done.exit_code == 0 and all(run.run_id in done.stdout for run in runs)


def test_status_names_a_line_that_it_cannot_show(study):
    spec, runs = study
    runs[0].metrics.write_text('{"images_seen": 512}\n')
    runs[1].evals.write_text('{"images_seen": 512, "metric": "fd_digits_cnn"}\n')
    done = call("status", spec)
    assert done.exit_code == 0 and done.stderr.splitlines() == [
        f"warning: {runs[0].metrics} line 1 is left out: it has no images_per_second",
        f"warning: {runs[1].evals} line 1 is left out: it has no score"]


def test_the_report_says_how_many_lines_are_left_out(study, tmp_path):
    spec, runs = study
    runs[1].evals.write_text(runs[1].evals.read_text()[:-100])
    done = call("report", runs[0].path.parent, "--out", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert done.exit_code == 0 and f"{runs[1].evals} line 2 is left out: incomplete" in done.stderr
    assert f"1 line of {runs[1].evals} left out" in page


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"state": "done"}', '{"state": 3, "images_seen": 1}',
                                     '{"state": "done", "images_seen": "all"}'])
def test_a_damaged_status_counts_as_queued(study, tmp_path, content):
    spec, runs = study
    (runs[0].path / "status.json").write_text(content)
    done = call("status", spec)
    assert done.exit_code == 0 and "1 queued, 1 done" in done.stdout.replace("\n", " ")
    assert done.stderr.count(f"{runs[0].path / 'status.json'} is damaged: ") == 1
    assert len(collected(spec, tmp_path)[0]) == 4 and call("plan", spec).exit_code == 0


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": 3}', '{"config": {}}', '{"config": {"model": 1}}'])
def test_a_damaged_record_leaves_one_run_out(study, tmp_path, content):
    spec, runs = study
    runs[0].record.write_text(content)
    table, done = collected(spec, tmp_path)
    assert set(table["run_id"]) == {runs[1].run_id} and done.stderr.count(str(runs[0].record)) == 1
    assert f"a run is left out: {runs[0].record}" in done.stdout
    runs[1].record.write_text(content)
    done = call("collect", spec, "--out", tmp_path / "t.csv")
    assert done.exit_code == 2 and str(runs[1].record) in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("state", ["failed", "done"])
def test_a_damaged_record_is_written_anew_by_a_launch(study, state):
    spec, runs = study
    whole = runs[0].read_record()
    runs[0].set_status(state, images_seen=320)
    runs[0].record.write_text("{")
    spec = load_spec(spec)
    with pytest.warns(UserWarning, match="is damaged: .* it is written again"):
        for planned in expand(spec, "spec"):
            planned.run.create(run_record(spec, planned))
    assert runs[0].read_record() == whole


def test_a_line_after_half_a_line_is_whole(tmp_path):
    path = tmp_path / "evals.jsonl"
    append_line(path, {"images_seen": 1})
    path.write_text(path.read_text() + '{"images_se')
    append_line(path, {"images_seen": 2})
    append_line(path, {"images_seen": 3})
    with pytest.warns(UserWarning, match="line 2 is left out"):
        assert read_lines(path) == [{"images_seen": number} for number in (1, 2, 3)]
    assert [json.loads(path.read_text().splitlines()[number])["images_seen"] for number in (0, 2, 3)] == [1, 2, 3]
