"""A start on any machine: nothing is compiled, a wait is said, and a stop ends it as preempted."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from ditscale.rundir import DONE, FAILED, PREEMPTED, QUEUED, RUNNING, RunDir
from ditscale.training.ports import free_port
from ditscale.training.starting import Words

pytestmark = pytest.mark.usefixtures("in_repository")

BUILDERS = re.compile(r"ninja|cc1?|c\+\+.*|g\+\+.*|gcc.*|clang.*|nvcc|.*-(gcc|g\+\+|cpp).*|c?make|ld(\..*)?")
DITSCALE = [sys.executable, "-c", "from ditscale.cli import main; main()"]
JOINED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")    # by other tests, in this process


@pytest.fixture
def bare(tmp_path):
    """The environment of a machine without ninja and compilers: PATH has links to all else, and not this environment's bin."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for name in os.listdir(place):
            if not BUILDERS.fullmatch(name) and not (folder / name).exists():
                (folder / name).symlink_to(f"{place}/{name}")
    environment = {name: value for name, value in os.environ.items() if name not in (*JOINED, "CC", "CXX", "VIRTUAL_ENV")}
    environment.update(PATH=str(folder), TORCH_EXTENSIONS_DIR=str(tmp_path / "extensions"), HOME=str(tmp_path))
    assert not shutil.which("ninja", path=environment["PATH"]) and not shutil.which("c++", path=environment["PATH"])
    return environment


@pytest.fixture
def study(tmp_path, digits_values, request):
    """A study of one run: its file, and the run; 128 images long, or as many as an indirect parameter says."""
    from ditscale.studies.spec.spec import expand, load_spec

    images = getattr(request, "param", 128)
    digits_values["train"].update(images=images, checkpoint_every_images=images, precision="fp32")
    digits_values["evaluation"] = None
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": digits_values,
                                    "runs_dir": str(tmp_path / "runs")}))
    [planned] = expand(load_spec(path), str(path))
    return path, planned.run


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_machine_without_ninja_and_compiler_trains(bare, study, tmp_path, ranks):
    path, run = study
    command = [*DITSCALE, "train", str(path), f"resources.accelerators_per_run={ranks}"]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run.status()["state"] == DONE and run.status()["images_seen"] == 128
    assert not list((tmp_path / "extensions").glob("**/*"))                    # nothing was built, nothing locked


def test_deepspeed_makes_its_group_without_its_op(world):
    from deepspeed.comm import comm

    assert comm.cdb.is_initialized() and comm.cdb.shm_comm_op is None


def worker(run, environment={}, code=None):
    mine = {name: value for name, value in os.environ.items() if name not in JOINED}
    command = [sys.executable, *(("-m", "ditscale.studies.launch.worker") if code is None else ("-c", code)), str(run.path)]
    with open(run.log, "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True,
                                env={**mine, "DS_ACCELERATOR": "cpu", **environment})


def wait_for(condition, seconds=200):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.1)


def test_a_rank_that_waits_for_others_says_so_and_can_be_stopped(make_run):
    """The wait is in C++, where no Python handler runs."""
    number = signal.SIGTERM
    _, run = make_run(changes={"evaluation": None})
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    process = worker(run, alone)
    wait_for(lambda: re.search(r"starting: waiting for 2 ranks, \d+:\d\d so far", run.log.read_text()))
    assert run.status()["state"] == RUNNING and "waiting for 2 ranks" in run.status()["reason"]
    process.send_signal(number)
    assert process.wait(timeout=10) == 75
    status = run.status()
    assert status["state"] == PREEMPTED and status["failures"] == 0 and status["reason"] == f"{number.name}, before the first step"
    assert "Traceback" not in run.log.read_text()


BUILDS = """
import subprocess, sys
from ditscale.training import distributed
def join_world():
    print("building", flush=True)
    try:
        subprocess.run(["sleep", "100"], check=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError("Error building extension") from error
distributed.join_world = join_world
from ditscale.studies.launch.worker import main
sys.exit(main(sys.argv[1]))
"""


@pytest.mark.parametrize("began, code, state, failures", [(None, 75, PREEMPTED, 0), (0, 2, FAILED, 1)])
def test_a_stop_while_something_is_compiled_is_no_failure(make_run, began, code, state, failures):
    """The compiler gets the signal too, as a launcher sends it to the whole group, and its end is an error in the worker. A job
    whose whole time went into it would never get further: that is one."""
    _, run = make_run(changes={"evaluation": None})
    now = time.time()
    whole_job = {"SLURM_JOB_START_TIME": str(now + 1e6), "SLURM_JOB_END_TIME": str(now + 1)}
    process = worker(run, {} if began is None else whole_job, BUILDS)
    wait_for(lambda: "building" in run.log.read_text())
    if began is not None:
        time.sleep(1)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=10) == code
    assert run.status()["state"] == state and run.status()["failures"] == failures and "Traceback" not in run.log.read_text()


@pytest.mark.parametrize("study", [2**20], indirect=True)                      # minutes: it must not be done before the signal
@pytest.mark.parametrize("command, code", [("train", 75), ("launch", 130)])
def test_a_launcher_that_is_stopped_before_its_worker_listens(study, command, code):
    path, run = study
    process = subprocess.Popen([*DITSCALE, command, str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env={name: value for name, value in os.environ.items() if name not in JOINED})
    wait_for(lambda: run.log.exists() and run.log.read_text())
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=100)
    assert run.status()["state"] == PREEMPTED and run.status()["failures"] == 0, said
    assert process.returncode in (code, 75, 130) and "Traceback" not in said


def test_what_was_waited_for_is_no_reason_once_training_runs(make_run, monkeypatch):
    from ditscale.studies.launch.worker import work
    from ditscale.training import loop, starting

    told = []
    monkeypatch.setattr(starting, "FIRST", 0.01)
    monkeypatch.setattr(starting, "LONGEST", 0.05)
    monkeypatch.setattr(loop, "build_model", lambda config, build=loop.build_model: time.sleep(0.2) or build(config))
    monkeypatch.setattr(RunDir, "set_status", lambda self, state, set_status=RunDir.set_status, **more: (
        told.append((state, more.get("reason", ""))), set_status(self, state, **more))[-1])
    _, run = make_run(changes={"evaluation": None, "train.images": 128, "train.checkpoint_every_images": 128})
    assert work(run) == 0
    waited = [reason for state, reason in told if reason.startswith("starting: building the model, its")]
    last = max(index for index, (_, reason) in enumerate(told) if reason.startswith("starting: "))
    assert waited and told[last][1] == waited[-1] and told[last + 1] == (RUNNING, "") and told[-1] == (DONE, "")


def test_the_terminal_of_launch_says_each_word_once(study):
    from io import StringIO

    from rich.console import Console

    from ditscale.studies.launch.watch import Bars
    from ditscale.studies.spec.spec import expand, load_spec

    spec = load_spec(study[0])
    [planned] = expand(spec, str(study[0]))
    planned.run.create({})
    said = StringIO()
    active = type("Active", (), {"planned": planned, "run": planned.run, "evaluates": False, "process": True})()
    bars = Bars(Console(file=said), spec, [planned], 1)
    bars.started(active)
    for words in ("", "starting: waiting for 2 ranks, 0:10 so far", "starting: waiting for 2 ranks, 0:30 so far", ""):
        planned.run.set_status(RUNNING, images_seen=0, reason=words)
        bars.update([active])
        bars.update([active])
    planned.run.set_status(PREEMPTED, images_seen=0, reason="SIGTERM")
    bars.update([active])
    assert [line.split(": ", 1)[1] for line in said.getvalue().splitlines() if "so far" in line] == [
        "starting: waiting for 2 ranks, 0:10 so far", "starting: waiting for 2 ranks, 0:30 so far"]
    assert "SIGTERM" not in said.getvalue()


def test_words_come_later_and_later(monkeypatch):
    told = []
    monkeypatch.setattr("ditscale.training.starting.FIRST", 0.05)
    words = Words(told.append)
    words.now("one")
    wait_for(lambda: len(told) == 2, 10)
    words.now("two")
    wait_for(lambda: len(told) == 3, 10)
    assert words.end() and words.end()
    assert [line.split(",")[0] for line in told] == ["starting: one", "starting: one", "starting: two"]
    quick = Words(told.append)
    assert not quick.end() and len(told) == 3


@pytest.mark.parametrize("before, exit_code, was_asked, after", [
    (QUEUED, -15, False, PREEMPTED), (RUNNING, 143, False, PREEMPTED), (RUNNING, 138, False, PREEMPTED),
    (RUNNING, 75, False, PREEMPTED), (RUNNING, 1, True, PREEMPTED), (RUNNING, -9, True, PREEMPTED), (RUNNING, 1, False, FAILED), (RUNNING, 137, False, FAILED),
    (FAILED, -15, False, PREEMPTED), (PREEMPTED, 1, False, FAILED), (DONE, -15, True, DONE)])
def test_how_a_start_ended_that_could_not_say_it(tmp_path, before, exit_code, was_asked, after):
    """What an earlier start wrote is not this one's end."""
    run = RunDir(tmp_path / "run")
    run.create({})
    run.set_status(before, images_seen=64)
    run.settle(exit_code, since=time.time() + 1, was_asked=was_asked)
    assert run.status()["state"] == after and run.status()["images_seen"] == 64
    run.settle(1, since=0.0)
    assert run.status()["state"] == after                                      # its own end stands


@pytest.mark.parametrize("exit_code, reason, was_asked, after", [
    (247, "SIGTERM, before the first step", False, FAILED), (139, "SIGTERM, before the first checkpoint", False, FAILED),
    (-9, "SIGTERM, before the first step", True, PREEMPTED), (143, "SIGTERM, before the first step", False, PREEMPTED),
    (137, "SIGTERM", False, PREEMPTED)])
def test_a_rank_that_crashed_is_no_preemption(tmp_path, exit_code, reason, was_asked, after):
    """Its launcher then stops the others with SIGTERM; of a run that has saved, SLURM's SIGKILL may end what is slow to leave."""
    run = RunDir(tmp_path / "run")
    run.create({})
    run.set_status(PREEMPTED, images_seen=64, reason=reason)
    run.settle(exit_code, since=0.0, was_asked=was_asked)
    assert run.status()["state"] == after
    assert after == PREEMPTED or run.status()["reason"].startswith(f"a process of the run was ended by SIG{'SEGV' if exit_code == 139 else 'KILL'}")
