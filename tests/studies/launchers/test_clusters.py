"""Launching elsewhere, without a cluster: what is printed, what a batch script does under a false SLURM, what is refused."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.rundir import DONE, FAILED, PREEMPTED, QUEUED, RUNNING, RunDir
from ditscale.studies.launch.settle import main as settle
from ditscale.studies.launch.start import load_site
from ditscale.studies.launchers.hosts import Hosts
from ditscale.studies.launchers.protocol import Shape, shape_of
from ditscale.studies.launchers.slurm.sbatch import Array, render
from ditscale.studies.spec.spec import expand, load_spec

pytestmark = pytest.mark.usefixtures("in_repository")

SLURM = {                                                                      # a false SLURM: a folder of notes is its queue
    "squeue": 'cat "$NOTES/queue" 2>/dev/null; exit 0',
    "sbatch": '[ -e "$NOTES/refuse" ] && { echo "sbatch: error: invalid account" >&2; exit 1; }\n'
              'n=$(cat "$NOTES/n" 2>/dev/null || echo 6); echo $((n + 1)) >"$NOTES/n"; echo "$PWD/$2" >>"$NOTES/sbatch"\n'
              'last=$(sed -n "s/.*--array=0-\\([0-9]*\\).*/\\1/p" "$2")\n'
              'for i in $(seq 0 $last); do echo "$((n + 1))_$i|PENDING|$PWD/$2" >>"$NOTES/queue"; done; echo $((n + 1))',
    "scontrol": 'echo "scontrol $*" >>"$NOTES/calls"; [ "$1" = show ] && echo node1; exit 0',
    "scancel": 'echo "scancel $*" >>"$NOTES/calls"',
    "srun": 'shift 2; export SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NTASKS=2; exec "$@"',
}
WORKER = """\
printf '%s\\n' "$*" "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $PWD $WORD" >>"$NOTES/worker"
[ "$2" = ditscale.studies.launch.worker ] && exit $(cat "$NOTES/code")
exit $4
"""


@pytest.fixture
def in_repository(repository, monkeypatch):
    monkeypatch.chdir(repository)


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """The false SLURM on the PATH; returns its folder of notes."""
    folder = tmp_path / "notes"
    (folder / "bin").mkdir(parents=True)
    for name, text in {**SLURM, "worker": WORKER}.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(folder))
    return folder


@pytest.fixture
def write(tmp_path):
    """Write a YAML file; returns its path."""
    def write(name, values):
        (tmp_path / name).write_text(yaml.safe_dump(values))
        return str(tmp_path / name)
    return write


@pytest.fixture
def study(write, tmp_path, digits_values):
    """A study of three runs; returns its spec's path and its runs."""
    spec = write("spec.yaml", {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": digits_values,
                               "parameters": {"seed": {"values": [0, 1, 2]}}, "runs_dir": str(tmp_path / "runs")})
    return spec, [planned.run for planned in expand(load_spec(spec), spec)]


def ditscale(*arguments, code=0):
    done = CliRunner().invoke(main, [str(word) for word in arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_print_shows_all_and_touches_nothing(study, write, tmp_path, notes):
    spec, runs = study
    site = write("site.yaml", {"name": "big", "partition": "gpu", "account": "me", "gpus_per_node": 8, "gres": "gpu:h100",
                               "time": 60, "cpus_per_task": 4, "runs_at_once": 2, "price_per_gpu_hour": 2.5,
                               "setup": ["module load cuda"], "extra_sbatch": ["--mem=0"],
                               "container": "apptainer exec 'my image.sif'", "python": "python3"})
    shown = ditscale("launch", spec, "--site", site, "--launcher", "print", "resources.accelerators_per_run=16")
    for line in ("#SBATCH --job-name=ditscale-study", "#SBATCH --array=0-2%2", "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=8",
                 "#SBATCH --gres=gpu:h100:8", "#SBATCH --time=60", "#SBATCH --signal=USR1@180", "#SBATCH --open-mode=append",
                 "#SBATCH --mem=0", "module load cuda", "python=(apptainer exec 'my image.sif' python3)"):
        assert f"\n{line}\n" in shown
    assert "GPU-hours" in shown and "at 2.5 per hour" in shown and "3 to start" in shown
    assert all(run.run_id in shown for run in runs)
    here = ditscale("launch", spec, "--launcher", "print", "seed=1")
    assert re.search(r"deepspeed .*--module ditscale.studies.launch.worker \S+" + runs[1].run_id + "\n", here)
    assert not (tmp_path / "runs").exists() and not list(notes.glob("[a-z]*[!n]"))


def test_no_run_is_submitted_twice(study, write, notes, tmp_path):
    spec, runs = study
    launch = ("launch", spec, "--site", write("site.yaml", {"name": "small", "array_limit": 2}))
    assert "0 waiting or running, 3 submitted" in ditscale(*launch)
    assert "3 waiting or running, 0 submitted" in ditscale(*launch)
    submitted = (notes / "sbatch").read_text().splitlines()
    assert len(submitted) == 2                                                 # of 2 runs and of 1
    records = [json.loads(Path(path).with_suffix(".json").read_text()) for path in submitted]
    assert sorted(run_id for record in records for run_id in record["runs"]) == sorted(run.run_id for run in runs)
    assert [record["job"] for record in records] == ["7", "8"] and "pending" in ditscale("status", spec)

    (notes / "queue").write_text("")                                           # all have ended
    runs[0].set_status(DONE, images_seen=640)
    runs[1].set_status(FAILED, images_seen=64, reason="no memory")
    runs[2].set_status(PREEMPTED, images_seen=128)
    with runs[2].lock():                                                       # a launch of this machine is at it
        assert "1 done, 1 waiting or running, 1 submitted" in ditscale(*launch)
    assert "1 done, 1 waiting or running, 1 submitted" in ditscale(*launch)
    assert ditscale("launch", spec, code=1).count("has a job in SLURM") == 2   # nor does this machine take them
    assert "job 9_" in ditscale("status", spec)


def test_a_refusal_of_sbatch_is_one_line_and_the_next_launch_submits(study, write, notes):
    spec, runs = study
    launch = ("launch", spec, "--site", write("site.yaml", {"name": "small"}))
    (notes / "refuse").touch()
    assert ditscale(*launch, code=2) == "error: sbatch failed: sbatch: error: invalid account\n"
    (notes / "refuse").unlink()
    assert "3 submitted" in ditscale(*launch)


@pytest.mark.parametrize("code, requeued", [(0, False), (1, False), (75, True)])
def test_the_script_starts_ranks_and_requeues_what_stopped_early(notes, write, tmp_path, code, requeued):
    """Nothing in a path or a value is run as a command, whatever it is made of."""
    wild = "a 'b' \"c\" $(touch $NOTES/gone) `touch $NOTES/gone`;touch $NOTES/gone\n../x"
    study, folder = tmp_path / wild / "study", tmp_path / f"cwd {wild}"
    run = study / "DiT-atto-4-s0"
    run.mkdir(parents=True)
    folder.mkdir(parents=True)
    (notes / "code").write_text(str(code))
    site = load_site(write("site.yaml", {"name": "here", "python": "worker", "container": "env 'WORD=$(touch $NOTES/gone)'",
                                         "environment": {"OTHER": wild}}))
    array = Array("script", "ditscale-x", study, ("DiT-atto-2-s0", run.name), Shape(1, 2), 60, ("", "evaluate"))
    job = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "5", "SLURM_JOB_ID": "6", "SLURM_JOB_NODELIST": "node1"}
    done = subprocess.run(["bash"], input=render(array, site, folder), env={**os.environ, **job}, capture_output=True, text=True)
    assert done.returncode == code and done.stderr == "" and "job 5_1 on node1" in (run / "log.txt").read_text()
    said = (notes / "worker").read_text()
    assert said.startswith(f"-m ditscale.studies.launch.worker {run}\n1 1 2 node1 {folder} $(touch $NOTES/gone)\n")
    assert (f"{run} evaluate\n" in said) == (code == 0)
    assert ("scontrol requeue 6" in (notes / "calls").read_text()) == requeued
    assert not (notes / "gone").exists()


@pytest.mark.parametrize("given, answer, expected", [
    ({}, "2026-11-29T01:02:03", "2026-11-29T01:02:03"), ({}, "N/A", None), ({}, "Unknown", None), ({}, "NONE", None), ({}, "", None),
    ({"SLURM_JOB_START_TIME": "1", "SLURM_JOB_END_TIME": "2"}, "2026-11-29T01:02:03", "given")])
def test_the_script_finds_its_time_limit_where_slurm_does_not_set_it(notes, write, tmp_path, given, answer, expected):
    """SLURM 22.05 sets neither variable; without a limit squeue has words of its own in place of a time."""
    run = tmp_path / "study" / "run"
    run.mkdir(parents=True)
    (notes / "bin" / "squeue").write_text(f'#!/bin/bash\necho "$SLURM_TIME_FORMAT $*" >>"$NOTES/asked"; echo "{answer}"\n')
    (notes / "bin" / "worker").write_text('#!/bin/bash\necho "$SLURM_JOB_START_TIME|$SLURM_JOB_END_TIME" >>"$NOTES/times"\n')
    array = Array("script", "ditscale-x", tmp_path / "study", ("run",), Shape(1, 1), 60, ("",))
    script = render(array, load_site(write("site.yaml", {"name": "here", "python": "worker"})), tmp_path)
    job = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "5", "SLURM_JOB_ID": "6", "SLURM_JOB_NODELIST": "node1",
           "SLURM_TIME_FORMAT": "%H"}
    mine = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_JOB_")}
    done = subprocess.run(["bash"], input=script, env={**mine, **job, **given}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    seconds = "" if expected is None else str(round(time.mktime(time.strptime(answer, "%Y-%m-%dT%H:%M:%S"))))
    wanted = "1|2" if expected == "given" else f"{seconds}|{seconds}"
    assert (notes / "times").read_text().splitlines()[0] == wanted
    if not given:
        assert (notes / "asked").read_text().splitlines() == [f"standard --noheader --jobs=6 --format={what}" for what in ("%S", "%e")]


def test_settle_says_how_a_killed_run_ended(tmp_path):
    run = RunDir(tmp_path / "run")
    run.create({})
    run.log.write_text("".join(f"line {i}\n\n" for i in range(30)))
    run.set_status(RUNNING, images_seen=64)
    assert settle(str(run.path), "137", "0") == 137
    status = run.status()
    assert status["state"] == FAILED and status["reason"] == "ended with exit code 137: line 29" and status["failures"] == 1
    assert status["last_lines"] == [f"line {i}" for i in range(20, 30)]
    run.set_status(PREEMPTED, images_seen=64)
    assert settle(str(run.path), "143", "0") == 75                             # a rank that SLURM ended hides the other's 75
    assert settle(str(run.path), "1", "9e9") == 1 and run.status()["state"] == FAILED  # an earlier start's end is not this one's
    assert settle(str(run.path), "138", "9e9") == 75 and run.status()["state"] == PREEMPTED  # SIGUSR1 before Python listened


def test_stop_asks_jobs_and_processes(study, write, notes):
    spec, runs = study
    ditscale("launch", spec, "--site", write("site.yaml", {"name": "small"}))
    (notes / "queue").write_text((notes / "queue").read_text().replace("7_0|PENDING", "7_0|RUNNING").rsplit("7_2", 1)[0])
    [record] = runs[0].path.parent.glob("slurm/*.json")
    running, pending, here = json.loads(record.read_text())["runs"]
    run = RunDir(runs[0].path.with_name(here))
    hold = "import sys, time; from ditscale.rundir import hold\nwith hold(sys.argv[1]): print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold, run.path / "lock"], stdout=subprocess.PIPE)
    process.stdout.read(1)
    status = {"state": RUNNING, "images_seen": 1, "host": socket.gethostname(), "pid": process.pid}
    (run.path / "status.json").write_text(json.dumps(status))

    shown = ditscale("stop", spec)
    assert f"{running}: job 7_0 saves a checkpoint and ends\n" in shown
    assert f"{pending}: job 7_1 is removed from the queue\n" in shown
    assert set((notes / "calls").read_text().splitlines()) == {"scontrol update JobId=7_0 Requeue=0", "scancel --signal=USR1 7_0",
                                                               "scancel 7_1"}
    assert process.wait(10) == -signal.SIGTERM and f"{here}: process {process.pid} saves a checkpoint and ends\n" in shown
    (run.path / "status.json").write_text(json.dumps({**status, "host": "elsewhere"}))
    assert "was last running on elsewhere; call ditscale stop there" in ditscale("stop", spec, code=1)


def test_retry_launches_failed_runs_until_the_limit(study, write, notes):
    spec, runs = study
    site = ("--site", write("site.yaml", {"name": "small"}))
    assert "no failed run to launch again" in ditscale("retry", spec, *site)
    for run, times in zip(runs, (1, 2, 0)):
        run.create({})
        for _ in range(times):
            run.set_status(FAILED, images_seen=64, reason="no memory")
    shown = ditscale("retry", spec, "--limit", "2", *site)
    assert f"left: {runs[1].run_id} failed 2 times, last: no memory" in shown and "1 run, 0 done" in shown
    assert "1 submitted" in shown and "no failed run to launch again" in ditscale("retry", spec, "--limit", "2", *site)
    assert runs[2].status()["state"] == QUEUED


def test_deepspeed_over_hosts(study, tmp_path, write):
    spec, _ = study
    (tmp_path / "hosts").write_text("# two\nhost1 slots=4\nhost2 slots=4   # of a kind\n")
    site = write("site.yaml", {"name": "pair", "launcher": "deepspeed", "hostfile": str(tmp_path / "hosts")})
    [planned] = expand(load_spec(spec, ("seed=0", "resources.accelerators_per_run=8")), spec)
    words = Hosts(load_site(site), [planned]).command(planned, None, False).words
    assert words[0].endswith("deepspeed") and words[1:3] == ("--hostfile", str(tmp_path / "hosts"))
    assert words[3:8] == ("--num_nodes", "2", "--num_gpus", "4", "--master_port")
    assert words[9:] == ("--no_local_rank", "--module", "ditscale.studies.launch.worker", str(planned.run.path))
    assert "--num_nodes 1 --num_gpus 2" in ditscale("launch", spec, "--site", site, "--launcher", "print",
                                                    "resources.accelerators_per_run=2")
    refused = ditscale("launch", spec, "--site", site, "resources.accelerators_per_run=16", code=2)
    assert "accelerators_per_run is 16 but" in refused and "2 hosts of 4 slots" in refused


@pytest.mark.parametrize("values, words", [
    ({"partitoin": "gpu"}, "did you mean 'partition'"),
    ({"partition": "a b"}, "'a b' goes into an #SBATCH line"),
    ({"account": "x\ntouch gone"}, "one word"),
    ({"extra_sbatch": ["--mem=0\ntouch gone"]}, "is not an option of sbatch"),
    ({"extra_sbatch": ["--array=1-2"]}, "--array is set by ditscale"),
    ({"extra_sbatch": ["mem=0"]}, "write for example --constraint=a100"),
    ({"container": "apptainer 'x"}, "is not a command: no closing quotation"),
    ({"environment": {"A B": "1"}}, "'environment.A B"),
    ({"hostfile": "hosts"}, "hostfile is for launcher: deepspeed"),
    ({"launcher": "deepspeed"}, "needs hostfile"),
    ({"launcher": "deepspeed", "hostfile": "h", "setup": ["x"]}, "setup is for launcher: slurm"),
])
def test_a_wrong_site_is_one_clear_line(write, values, words):
    with pytest.raises(UserError) as error:
        load_site(write("site.yaml", {"name": "x", **values}))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_shapes(values):
    def shape(ranks, per_node):
        values["train"]["global_batch"] = 8 * ranks
        return shape_of(resolve({**values, "resources": {"accelerators_per_run": ranks}}, "test"), per_node)

    assert shape(16, 8) == Shape(2, 8) and shape(2, 8) == Shape(1, 2) and shape(12, 8) == Shape(2, 6)
    assert shape(16, 0) == Shape(1, 16)
    with pytest.raises(UserError, match="5 does not fill 3 nodes of 2 evenly; 4 or 6 would"):
        shape(5, 2)


@pytest.mark.parametrize("name", ["slurm_example", "hosts_example"])
def test_the_examples_are_valid(name):
    assert load_site(f"sweeps/sites/{name}.yaml").name


def test_plan_takes_a_site_as_launch_does(repository, tmp_path):
    """Its GPUs, as many as the runs that go at once take, and its price; --on and --price come first."""
    spec, site = repository / "sweeps" / "imagenet256_models.yaml", repository / "sweeps" / "sites" / "slurm_example.yaml"
    said = ditscale("plan", spec, "--site", site)
    assert "Forecast for 32 x H100" in said and "4 runs at a time" in said and "at 2.5 per" in said
    assert said == ditscale("plan", spec, "--on", "H100:32", "--price", "2.5")
    assert "at 3 per" in ditscale("plan", spec, "--site", site, "--on", "A100:8", "--price", "3")
    other = tmp_path / "site.yaml"
    for gres in ("gpu:a1000", "gpu"):
        other.write_text(site.read_text().replace("gpu:h100", gres))
        assert "names no GPU that a forecast knows; add one with --on" in ditscale("plan", spec, "--site", other, code=2)
    assert "plans for another; give only one" in ditscale("plan", spec, "--site", site, "--probe", code=2)


def test_collect_wants_a_study_and_a_place_to_write(study, tmp_path):
    assert "no such file" in ditscale("collect", tmp_path / "none", "--out", tmp_path / "x.csv", code=2)
    assert "is not a study directory" in ditscale("collect", study[0], "--out", tmp_path / "x.csv", code=2)
