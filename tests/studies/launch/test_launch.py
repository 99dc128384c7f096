"""Launching for real: the ``deepspeed`` launcher, subprocesses, kills and relaunches."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas
import pytest
import yaml

from ditscale.rundir import RunDir, read_lines

DITSCALE = [sys.executable, "-c", "from ditscale.cli import main; main()"]


@pytest.fixture
def study(tmp_path, digits_values):
    """Write a spec; returns its path and the study's directory."""
    def write(parameters, **changes):
        config = {**digits_values, "train": {**digits_values["train"], "precision": "bf16"}, "resources": {"log_every_images": 64}}
        for key, value in changes.items():
            section, _, name = key.partition("__")
            config[section][name] = value
        spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": config, "parameters": parameters,
                "runs_dir": str(tmp_path / "runs")}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        return tmp_path / "spec.yaml", tmp_path / "runs" / "study"
    return write


def ditscale(repository, *arguments):
    return subprocess.run([*DITSCALE, *map(str, arguments)], cwd=repository, capture_output=True, text=True, timeout=300)


def states(folder):
    return {RunDir(path.parent).run_id: RunDir(path.parent).status()["state"] for path in folder.glob("*/run.json")}


def kill_tree(process):
    """Kill -9 the launcher only; what it started must notice by itself."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_launch_relaunch_and_collect(study, repository):
    spec, folder = study({"model.name": {"values": ["DiT-atto/8", "DiT-atto/4"]}})
    first = ditscale(repository, "launch", spec)
    assert first.returncode == 0, first.stdout + first.stderr
    assert set(states(folder).values()) == {"done"}
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json*")}

    second = ditscale(repository, "launch", spec)
    assert second.returncode == 0 and "2 done, 0 to run" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json*")} == times

    collected = ditscale(repository, "collect", spec, "--out", folder.parent / "table.csv")
    assert collected.returncode == 0 and collected.stdout == f"4 rows: {folder.parent / 'table.csv'}\n"
    table = pandas.read_csv(folder.parent / "table.csv")
    assert len(table) == 4 and table.final.sum() == 2
    assert table.passport.nunique() == 1 and (table.score > table.floor).all() and (table.floor > 0).all()
    assert (table.train_flops == table.train_flops_per_image * table.images_seen).all()
    assert all((folder.parent / sheet).exists() for sheet in table.sample_sheet)
    assert table.forecast_train_seconds.gt(0).all() and table.torch_version.notna().all() and str(folder) not in (folder.parent / "table.csv").read_text()

    record = json.loads(next(folder.glob("*/run.json")).read_text())
    assert all(json.loads((run.parent / "data.json").read_text())["kind"] == "pixels" for run in folder.glob("*/run.json"))
    assert record["environment"]["torch"] and record["loader"]["backend"] in ("ffcv", "mmap")
    shown = ditscale(repository, "status", spec, "--wide")
    assert "study: 2 done" in shown.stdout and shown.stdout.count("│ done") == 2


def test_scoring_may_be_a_job_of_its_own(study, repository):
    """It starts when the run is trained, and again, alone, where a score is missing."""
    spec, folder = study({"model.name": {"value": "DiT-atto/8"}}, resources__evaluate="separately", evaluation__every_images=640)
    first = ditscale(repository, "launch", spec)
    assert first.returncode == 0, first.stdout + first.stderr
    [run] = [RunDir(path.parent) for path in folder.glob("*/run.json")]
    assert first.stdout.index("starting") < first.stdout.index("scoring") and run.status()["state"] == "done"
    [line], trained = read_lines(run.evals), run.metrics.read_bytes()
    assert line["images_seen"] == 640

    run.evals.unlink()
    second = ditscale(repository, "launch", spec)
    assert second.returncode == 0 and "starting" not in second.stdout
    assert read_lines(run.evals)[0]["score"] == line["score"] and run.metrics.read_bytes() == trained


def test_kill_minus_nine_of_the_launcher_then_relaunch(study, repository):
    """The interrupted run goes on from its checkpoint; the finished one is not touched; losses equal an undisturbed run's."""
    spec, folder = study({"model.name": {"values": ["DiT-atto/8"]}}, train__images=6400, train__checkpoint_every_images=640)
    quiet = ditscale(repository, "launch", spec, "evaluation=null")
    assert quiet.returncode == 0, quiet.stdout + quiet.stderr
    [undisturbed] = [RunDir(path.parent) for path in folder.glob("*/run.json")]
    wanted = [line["loss/generative"] for line in read_lines(undisturbed.metrics)]
    undisturbed.path.rename(folder.parent / "kept")

    process = subprocess.Popen([*DITSCALE, "launch", str(spec), "evaluation=null"], cwd=repository, stdout=subprocess.DEVNULL)
    run = RunDir(folder / undisturbed.run_id)
    wait_for(lambda: len(list(run.checkpoints.glob("images-*"))) >= 2)
    kill_tree(process)
    wait_for(lambda: not run.is_locked())
    assert run.status()["state"] in ("preempted", "running", "done")
    again = ditscale(repository, "launch", spec, "evaluation=null")
    assert again.returncode == 0, again.stdout + again.stderr
    assert run.status()["state"] == "done"
    assert [line["loss/generative"] for line in read_lines(run.metrics)] == wanted


def test_ctrl_c_saves_and_goes_on_with_other_ranks(study, repository):
    spec, folder = study({"model.name": {"values": ["DiT-atto/8"]}}, train__images=640_000, train__checkpoint_every_images=640_000)
    process = subprocess.Popen([*DITSCALE, "launch", str(spec), "evaluation=null"], cwd=repository, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: any(RunDir(p.parent).status()["images_seen"] > 0 for p in folder.glob("*/run.json")))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "run the same command to continue" in out
    [run] = [RunDir(path.parent) for path in folder.glob("*/run.json")]
    status = run.status()
    assert status["state"] == "preempted" and 0 < status["images_seen"] < 640_000
    assert (run.checkpoints / "latest").read_text().strip() == f"images-{status['images_seen']:012d}"

    more = status["images_seen"] + 640                                          # goes on, now on two ranks
    record = json.loads(run.record.read_text())
    assert record["config"]["resources"]["accelerators_per_run"] == 1
    process = subprocess.Popen([*DITSCALE, "launch", str(spec), "evaluation=null", "resources.accelerators_per_run=2"],
                               cwd=repository, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: run.status()["images_seen"] >= more)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    seen = [line["images_seen"] for line in read_lines(run.metrics)]
    assert process.returncode == 130 and seen == sorted(set(seen)) and seen[-1] >= more


def test_train_one_run_of_a_study(study, repository):
    """The study's own run, its log on the terminal; launch finds it done, and a second train says so."""
    spec, folder = study({"model.name": {"values": ["DiT-atto/4", "DiT-atto/8"]}})
    first = ditscale(repository, "train", spec, "model.name=DiT-atto/8", "resources.accelerators_per_run=2")
    assert first.returncode == 0, first.stdout + first.stderr
    [run] = [RunDir(path.parent) for path in folder.glob("*/run.json")]
    lines = first.stdout.splitlines()
    assert lines[0] == f"starting {run.path}" and run.run_id.startswith("DiT-atto-8-baseline")
    assert sum(line.startswith("images ") and "loss" in line for line in lines) == 10 and "[INFO]" not in first.stdout
    score = read_lines(run.evals)[-1]["score"]
    assert lines[-1].startswith(f"done: 640 images, fd_digits_cnn {score:.2f} (floor ") and lines[-1].endswith(str(run.path))

    again = ditscale(repository, "train", spec, "model.name=DiT-atto/8")
    assert again.returncode == 0 and again.stdout.splitlines() == lines[-1:]
    failed = ditscale(repository, "train", spec, "model.name=DiT-atto/8", "train.lr=1e30", "train.precision=fp32")
    assert failed.returncode == 1 and failed.stdout.splitlines()[-1].startswith("failed: ") and "not finite" in failed.stdout


def test_ctrl_c_of_train_saves_a_checkpoint(study, repository):
    spec, folder = study({"model.name": {"value": "DiT-atto/8"}}, train__images=640_000, train__checkpoint_every_images=640_000)
    process = subprocess.Popen([*DITSCALE, "train", str(spec), "evaluation=null"], cwd=repository, stdout=subprocess.PIPE,
                               text=True)
    wait_for(lambda: any(RunDir(p.parent).status()["images_seen"] > 0 for p in folder.glob("*/run.json")))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    [run] = [RunDir(path.parent) for path in folder.glob("*/run.json")]
    assert process.returncode == 130 and out.splitlines()[-1] == "stopped; run the same command to continue"
    assert run.status()["state"] == "preempted" and (run.checkpoints / "latest").exists()


def test_stop_from_another_terminal(study, repository):
    """A run that is chosen ends, and its launcher goes on; without a choice the launcher ends too."""
    spec, folder = study({"seed": {"values": [0, 1]}}, train__images=640_000, train__checkpoint_every_images=640_000)
    process = subprocess.Popen([*DITSCALE, "launch", str(spec), "evaluation=null", "resources.accelerators_per_run=2"],
                               cwd=repository, stdout=subprocess.PIPE, text=True)
    seeds = {}
    wait_for(lambda: folder.is_dir() and any(RunDir(p.parent).status()["images_seen"] > 0 for p in folder.glob("*/run.json")))
    for path in folder.glob("*/run.json"):
        seeds[json.loads(path.read_text())["config"]["seed"]] = RunDir(path.parent)
    first, second = (0, 1) if seeds[0].status()["images_seen"] else (1, 0)
    chosen = ditscale(repository, "stop", spec, "evaluation=null", f"seed={first}")
    assert chosen.returncode == 0 and "saves a checkpoint and ends" in chosen.stdout
    wait_for(lambda: seeds[second].status()["images_seen"] > 0)
    assert seeds[first].status()["state"] == "preempted" and process.poll() is None

    assert ditscale(repository, "stop", spec, "evaluation=null").returncode == 0
    assert process.wait(120) == 130 and seeds[second].status()["state"] == "preempted"


def test_train_takes_one_run(study, repository):
    spec, folder = study({"model.name": {"values": ["DiT-atto/4", "DiT-atto/8"]}, "seed": {"values": [0, 1]}})
    done = ditscale(repository, "train", spec, "seed=1")
    assert done.returncode == 2 and done.stdout == "" and not folder.exists()
    assert done.stderr == (f"error: {spec} has 2 runs and train takes one. They differ in model.name: DiT-atto/4, DiT-atto/8. "
                           "Choose one, for example model.name=DiT-atto/4\n")
    wrong = ditscale(repository, "train", spec, "seed=1", "model.name=DiT-atto/4", "data.path=/nowhere/train.beton")
    assert wrong.returncode == 2 and "/nowhere/train.beton" in wrong.stderr and wrong.stderr.count("\n") == 1


def test_two_ranks_draw_and_learn_the_same(study, repository):
    """The same run on 1 and 2 ranks: same data and noise, so the same losses up to the order of sums."""
    spec, folder = study({"model.name": {"values": ["DiT-atto/4"]}}, train__precision="fp32")
    one = ditscale(repository, "launch", spec)
    assert one.returncode == 0, one.stdout + one.stderr
    [run] = [RunDir(path.parent) for path in folder.glob("*/run.json")]
    losses = [line["loss/generative"] for line in read_lines(run.metrics)]
    score = read_lines(run.evals)[-1]["score"]
    run.path.rename(folder.parent / "one")
    two = ditscale(repository, "launch", spec, "resources.accelerators_per_run=2")
    assert two.returncode == 0, two.stdout + two.stderr
    assert [line["loss/generative"] for line in read_lines(run.metrics)] == pytest.approx(losses, abs=2e-6)
    assert read_lines(run.evals)[-1]["score"] == pytest.approx(score, rel=0.02)


def test_a_failing_run_says_why(study, repository):
    spec, folder = study({"model.name": {"values": ["DiT-atto/8"]}}, train__lr=1e30, train__precision="fp32")
    failed = ditscale(repository, "launch", spec)
    assert failed.returncode == 1 and "failed:" in failed.stdout and "not finite" in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr
    [run] = [RunDir(path.parent) for path in folder.glob("*/run.json")]
    assert run.status()["failures"] == 1 and any("not finite" in line for line in run.status()["last_lines"])
    assert "skipped" in ditscale(repository, "status", spec).stdout           # the table breaks the reason into lines


@pytest.mark.parametrize("override, words", [
    ("train.lrr=1", "did you mean 'lr'"),
    ("model.name=DiT-nanno/2", "did you mean 'nano'"),
    ("data.resolution=10", "does not divide"),
    ("resources.accelerators_per_run=3", "does not divide by 3 ranks"),
    ("data.path=/nowhere/train.beton", "/nowhere/train.beton"),
    ("data.channels=3", "holds pixels of shape (1, 8, 8)"),
    ("evaluation.extractor_path=/nowhere.safetensors", "/nowhere.safetensors does not exist"),
    ("resources.deepspeed=/nowhere.json", "/nowhere.json does not exist"),
])
def test_wrong_input_is_one_clear_line(study, repository, override, words):
    spec, folder = study({"model.name": {"values": ["DiT-atto/4"]}})
    done = ditscale(repository, "launch", spec, override)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1
    assert not list(folder.glob("*"))


def test_truncated_data_and_unwritable_folder(study, repository, digits, tmp_path):
    spec, folder = study({"model.name": {"values": ["DiT-atto/4"]}})
    whole = (digits / "train.beton").read_bytes()
    (tmp_path / "cut.beton").write_bytes(whole[:len(whole) // 2])
    done = ditscale(repository, "launch", spec, f"data.path={tmp_path / 'cut.beton'}")
    assert done.returncode == 2 and "cut.beton" in done.stderr and done.stderr.count("\n") == 1
    folder.parent.mkdir()
    folder.write_text("a file where the study's folder should be")
    done = ditscale(repository, "launch", spec)
    assert done.returncode == 2 and "cannot be written" in done.stderr and done.stderr.count("\n") == 1
