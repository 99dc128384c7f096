"""Each line of a study reaches the real tracker once, whatever happens to the run or to the mirror in between."""

import json
import os
import sys
from pathlib import Path

import pytest

from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.rundir import DONE, RunDir, append_line, keep_lines, read_lines
from ditscale.studies.mirror import MIRRORS
from ditscale.studies.mirror.mirror import load, mirror_study

RUN = "DiT-atto-4-baseline-flow-s0-0123abcd"
TEXT = "loss 3.0, far above its last values"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where each tracker keeps what it gets; they read these variables once in a process."""
    folder = tmp_path_factory.mktemp("trackers")
    places = {"WANDB_DIR": str(folder), "TRACKIO_DIR": str(folder / "trackio"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    before = dict(os.environ)
    os.environ.update(places)
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(params=MIRRORS)
def tracker(request, places, tmp_path, values):
    """The tracker, a study's folder with one run, and what reads back what the tracker holds of a run by its name."""
    pytest.importorskip(request.param, reason=f"pip install 'ditscale[{request.param}]' to test --to {request.param}")
    folder = tmp_path / f"study-{tmp_path.name}"
    RunDir(folder / RUN).create({"config": resolve(values, "test").model_dump(mode="json")})
    return request.param, folder, lambda name=RUN: globals()[f"read_{request.param}"](places, folder.name, name)


def read_wandb(folder: Path, study: str, name: str):
    """From the offline runs of this id: leveldb's log format (blocks of 32 KiB), a protobuf record each."""
    from wandb.proto import wandb_internal_pb2 as protobuf

    points, config = [], {}
    for path in sorted(folder.glob(f"wandb/offline-run-*/run-{name}.wandb"), key=lambda path: path.stat().st_mtime_ns):
        data, at, whole = path.read_bytes(), 7, b""
        records = []
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            length, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
            whole += data[at + 7:at + 7 + length]
            at += 7 + length
            if kind in (1, 4):                                                    # full, or the last part
                records.append(protobuf.Record.FromString(whole))
                whole = b""
        started = next(record.run for record in records if record.HasField("run"))
        if started.project != study:
            continue
        config = {item.key: json.loads(item.value_json) for item in started.config.update}
        assert started.run_id == name and started.resumed is False
        for record in records:
            if record.HasField("history"):
                line = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                points.append((record.history.step.num, {key: value for key, value in line.items() if not key.startswith("_")}))
    steps = [step for step, _ in points]
    assert steps == list(range(len(steps)))                                      # a server keeps one line a step
    return [(point["images_seen"], point) for _, point in points], config


def read_trackio(folder: Path, study: str, name: str):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs(study, name)
    points = [(line["step"], {key: value for key, value in line.items() if key not in ("step", "timestamp")}) for line in logs]
    return points, next((run.config for run in trackio.Api().runs(study) if run.name == name), {})


def read_mlflow(folder: Path, study: str, name: str):
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(study).experiment_id
    found = client.search_runs([experiment], filter_string=f"attributes.run_name = '{name}'")
    assert len(found) <= 1
    lines = {}
    for run in found:
        for key in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, key):
                lines.setdefault((metric.timestamp, metric.step), {})[key] = metric.value
    return [(step, lines[time, step]) for time, step in sorted(lines)], found[0].data.params if found else {}


def log(run: RunDir, *images):
    for at in images:
        append_line(run.metrics, {"images_seen": at, "loss/generative": at / 512, "seconds/data": 0.1 + 0.2, "spike": TEXT})


def score(run: RunDir, at, value, passport="aa11"):
    append_line(run.evals, {"images_seen": at, "metric": "fd_digits_cnn", "score": value, "floor": None, "values": {"kid": 0.25},
                            "passport_id": passport, "passport": {"metric": "fd_digits_cnn", "seed": 0}})


def expected(run: RunDir):
    points = [(line["images_seen"], {key: value for key, value in line.items() if key != "spike"}) for line in read_lines(run.metrics)]
    return points + [(line["images_seen"], {"images_seen": line["images_seen"], f"eval/fd_digits_cnn/{line['passport_id']}": line["score"],
                                            f"eval/kid/{line['passport_id']}": 0.25}) for line in read_lines(run.evals)]


def in_order(points):
    return sorted(points, key=lambda point: (point[0], sorted(point[1].items())))  # W&B keeps no order of keys


def mirror(tracker) -> list[str]:
    said = []
    mirror_study(tracker[1], tracker[0], said.append)
    return said[:-1]                                                             # the last says how to look at it


def same(tracker, name=RUN):
    """Whether the tracker's run holds the lines of the files, each once."""
    held = [(at, {key: float(value) for key, value in values.items()}) for at, values in tracker[2](name)[0]]
    wanted = [(at, {key: float(value) for key, value in values.items()}) for at, values in expected(RunDir(tracker[1] / RUN))]
    return in_order(held) == in_order(wanted)


def test_a_second_call_adds_only_new_lines(tracker):
    run = RunDir(tracker[1] / RUN)
    log(run, 64, 128)
    score(run, 128, 8.5)
    assert mirror(tracker) == [f"{RUN}: 2 lines of metrics.jsonl and 1 of evals.jsonl"] and same(tracker)
    config = tracker[2]()[1]
    assert config["run_id"] == RUN and (config.get("train.lr") or str(config["train"]["lr"])) == "0.001"
    assert mirror(tracker) == [f"{RUN}: nothing new"] and same(tracker)
    log(run, 192)
    score(run, 64, 9.5)                                                          # later, of an earlier checkpoint
    score(run, 64, 9.5, "bb22")
    score(run, 64, 9.5, "bb22")                                                  # once more, by hand
    run.set_status(DONE, images_seen=192)
    assert mirror(tracker) == [f"{RUN}: 1 line of metrics.jsonl and 3 of evals.jsonl"] and same(tracker)
    if tracker[0] == "mlflow":
        import mlflow
        client = mlflow.MlflowClient()
        [found] = client.search_runs([client.get_experiment_by_name(tracker[1].name).experiment_id])
        assert found.info.status == "FINISHED" and json.loads(found.data.tags["passport/bb22"]) == {"metric": "fd_digits_cnn", "seed": 0}


def test_many_lines_are_all_kept(tracker):
    log(RunDir(tracker[1] / RUN), *range(64, 64 * 1500, 64))
    mirror(tracker)
    assert same(tracker)


def test_a_run_that_went_back_is_sent_anew_and_the_void_copy_is_named(tracker):
    run = RunDir(tracker[1] / RUN)
    log(run, 64, 128)
    mirror(tracker)
    keep_lines(run.metrics, lambda line: line["images_seen"] <= 64)
    [told, nothing] = mirror(tracker)[:2]
    assert told == (f"{RUN}: lines of metrics.jsonl that were sent have since been dropped or changed: the run went back to a "
                    f"checkpoint; {RUN} there is void and can be deleted, all lines go to {RUN}-2")
    assert nothing == f"{RUN}: 1 line of metrics.jsonl and 0 of evals.jsonl" and same(tracker, f"{RUN}-2")
    log(run, 100, 200)
    assert len(mirror(tracker)) == 1 and same(tracker, f"{RUN}-2")
    keep_lines(run.metrics, lambda line: line["images_seen"] <= 100)
    assert f"all lines go to {RUN}-3" in mirror(tracker)[0] and same(tracker, f"{RUN}-3")


def test_a_mirror_that_was_killed_leaves_no_line_twice(tracker, monkeypatch):
    run, kind = RunDir(tracker[1] / RUN), load(tracker[0])
    log(run, 64, 128)
    real = kind.send

    def dying(self, name, told, points, sent):
        real(self, name, told, points[:1], sent)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, "send", dying)
        mirror(tracker)
    assert not same(tracker)
    assert "was interrupted while it sent lines" in mirror(tracker)[0] and same(tracker, f"{RUN}-2")


def test_a_run_deleted_in_the_tracker_is_sent_again(tracker):
    name, folder, read = tracker
    if name == "wandb":
        pytest.skip("offline, W&B does not say what its server has")
    log(RunDir(folder / RUN), 64)
    mirror(tracker)
    if name == "mlflow":
        import mlflow
        client = mlflow.MlflowClient()
        [found] = client.search_runs([client.get_experiment_by_name(folder.name).experiment_id])
        client.delete_run(found.info.run_id)
    else:
        import trackio
        trackio.Api().runs(folder.name)[0].delete()
    assert f"{RUN} is gone from" in mirror(tracker)[0] and same(tracker)


def test_a_run_that_the_tracker_has_from_elsewhere_is_not_added_to(tracker):
    name, folder, _ = tracker
    if name == "wandb":
        pytest.skip("offline, W&B does not say what its server has")
    run = RunDir(folder / RUN)
    log(run, 64)
    mirror(tracker)
    run.mirror.unlink()
    assert f"not sent from here; {RUN} there is void" in mirror(tracker)[0] and same(tracker, f"{RUN}-2")


@pytest.mark.parametrize("name", MIRRORS)
def test_a_missing_package_is_one_line(name, monkeypatch, tmp_path, values):
    RunDir(tmp_path / RUN).create({"config": values})
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"ditscale.studies.mirror.{name}", raising=False)
    with pytest.raises(UserError, match=rf"--to {name}: the package {name} is not installed here; pip install 'ditscale\[{name}\]'"):
        mirror_study(tmp_path, name, print)


def test_a_damaged_run_keeps_no_other_back(tracker):
    damaged = RunDir(tracker[1] / "A-damaged")
    damaged.path.mkdir()
    damaged.record.write_text("{")
    log(RunDir(tracker[1] / RUN), 64)
    first, second = mirror(tracker)
    assert first.startswith("A-damaged: left out: ") and "run.json is damaged" in first and second.startswith(f"{RUN}: 1 line")
    assert same(tracker)


def test_a_damaged_memory_is_one_line(tracker):
    run = RunDir(tracker[1] / RUN)
    run.mirror.write_text('{"wandb project x": {"name": 1}}')
    with pytest.raises(UserError, match="mirror.json is damaged; delete it"):
        mirror(tracker)
