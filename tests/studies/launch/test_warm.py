"""Runs that are forked from one warm process: the same bits as a fresh process makes, and processes of their own in every way."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from io import StringIO

import pytest
import yaml
from rich.console import Console

from ditscale.cost.hardware import Machine
from ditscale.device import NVML_CHECK
from ditscale.rundir import FAILED, PREEMPTED, RUNNING, read_lines
from ditscale.studies.launch.launch import launch, run_record
from ditscale.studies.launchers import warm
from ditscale.studies.launchers.local import ThisMachine
from ditscale.studies.launchers.process import ActiveRun, Command, environment_of
from ditscale.studies.launchers.warm import Forked, ForkServer, WarmCommand
from ditscale.studies.spec.spec import expand, load_spec

CORES = Machine("cpu", "test", max(2, os.cpu_count() or 1), 1e9, 2**33)        # a place each, of one thread
JOINED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")    # by other tests, in this process


@pytest.fixture(autouse=True)
def in_repository(repository, monkeypatch):
    monkeypatch.chdir(repository)
    for name in JOINED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(warm, "environment_of", lambda more: {
        name: value for name, value in environment_of(more).items() if name != "PYTEST_CURRENT_TEST"})      # of one test, and the server is of all


@pytest.fixture
def study(tmp_path, digits_values):
    """``study("name", {"seed": [0, 1]}, images=64)``: a spec and its runs, in a folder of that name."""
    def make(name, values, images=640, **changes):
        digits_values["train"].update(images=images, checkpoint_every_images=images, precision="bf16")
        config = {**digits_values, "resources": {"log_every_images": 64}, **changes}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": config,
                                        "parameters": {key: {"values": list(given)} for key, given in values.items()},
                                        "runs_dir": str(tmp_path / name)}))
        spec = load_spec(path)
        return spec, expand(spec, str(path))
    return make


@pytest.fixture(scope="module")
def server():
    """A process to fork from, for all tests that leave it alive."""
    with closing(ForkServer()) as server:
        yield server


def fork(server, run_path, log):
    """The worker on this path, as a launch has it forked."""
    with open(log, "a") as file:
        return server.fork({"said": "a command", "words": [str(run_path)], "devices": [0]},
                           warm.environment_of({"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}), file.fileno())


def wait_for(condition, seconds=200):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.05)


def exit_code(process):
    wait_for(lambda: process.poll() is not None)
    return process.returncode


def forked_from(planned):
    """The process that a run's last start was forked from; None for a fresh one."""
    found = [line for line in planned.run.log.read_text().splitlines() if line.startswith("forked from process ")]
    return int(found[-1].removeprefix("forked from process ").split(",")[0]) if found else None


def made(planned):
    """What a run has made: losses, scores and the hashes of its checkpoints."""
    losses = [{name: value for name, value in line.items() if name.startswith(("loss/", "grad_norm", "watch/"))} for line in read_lines(planned.run.metrics)]
    hashes = [json.loads(path.read_text())["sha256"] for path in sorted(planned.run.checkpoints.glob("*/state.json"))]
    scores = [{name: line[name] for name in ("images_seen", "score", "floor", "bias", "passport_id", "values")} for line in read_lines(planned.run.evals)]
    assert losses and hashes and scores
    return losses, hashes, scores


def test_the_same_bits_as_a_fresh_process(study, server):
    """Of two variants at once, from one process, which is left as it was."""
    values = {"model.name": ["DiT-atto/4"], "objective.name": ["baseline", "mdt"]}
    ended = {}
    for name, own in (("warm", server), ("fresh", None)):
        spec, runs = study(name, values, images=128)
        assert launch(spec, runs, ThisMachine(CORES, runs, own), CORES, Console(file=StringIO()))
        ended[name] = {planned.run_id: made(planned) for planned in runs}
        assert {forked_from(planned) for planned in runs} == {own.process.pid if own else None}
    assert ended["warm"] == ended["fresh"]
    assert server.process.poll() is None and not server.ended


def test_nothing_that_a_fork_would_break_is_in_it(server, tmp_path):
    """One thread of Python's, whatever a run's number of threads, and no device; a child leads a group, and has its own variables."""
    child = fork(server, tmp_path / "nowhere", tmp_path / "log")
    assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1
    assert exit_code(child) == 2 and "no such run" in (tmp_path / "log").read_text()
    script = ("import os; from ditscale.studies.launch import fork_server, worker; import json, sys, torch\n"
              "fork_server.load()\n"
              "import threading; assert threading.active_count() == 1 and not torch.cuda.is_initialized()\n"
              "log = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); parent = os.getpid()\n"
              "if not os.fork():\n"
              "    fork_server.become({'said': 'x', 'words': [], 'devices': [3]}, log, parent)\n"
              "    import random, numpy\n"
              "    print(json.dumps([os.getpgid(0) == os.getpid(), {**os.environ}, random.random(), numpy.random.rand()]), flush=True); os._exit(0)\n"
              "os.wait(); import random, numpy; print(json.dumps([random.random(), numpy.random.rand()]))")
    variables = {**os.environ, NVML_CHECK: "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "4"}
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "child"], env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    leads, variables, *drawn = json.loads((tmp_path / "child").read_text().splitlines()[-1])
    assert leads and variables["WORLD_SIZE"] == "1" and variables["CUDA_VISIBLE_DEVICES"] == "3" and NVML_CHECK not in variables
    assert drawn != json.loads(done.stdout.splitlines()[-1])


def test_a_run_that_is_killed_takes_nothing_along(study, server):
    """The other place's run ends well, the dead one is failed as ever, and the next is forked from the same process."""
    spec, runs = study("kills", {"seed": [0, 1, 2]}, images=640000, evaluation=None)
    places = ThisMachine(CORES, runs, server)
    for planned in runs:
        planned.run.create(run_record(spec, planned))
    dies, lives = (ActiveRun(planned, place, places) for planned, place in zip(runs, places.places))
    wait_for(lambda: all(one.run.status()["images_seen"] for one in (dies, lives)))
    assert dies.run.status()["pid"] == dies.process.pid and dies.run.is_locked()
    with open(f"/proc/{dies.process.pid}/cmdline") as command:
        assert str(dies.run.path) in command.read().split("\0")
    os.kill(dies.process.pid, signal.SIGKILL)
    wait_for(dies.poll)
    status = dies.run.status()
    assert status["state"] == FAILED and status["failures"] == 1 and "exit code -9" in status["reason"] and not dies.run.is_locked()
    assert lives.run.status()["state"] == RUNNING and not lives.poll()
    os.kill(lives.process.pid, signal.SIGUSR1)                                 # what a queue or a user sends to it alone
    wait_for(lives.poll)
    assert lives.run.status()["state"] == PREEMPTED and lives.run.status()["reason"] == "SIGUSR1" and (lives.run.checkpoints / "latest").exists()
    again = ActiveRun(runs[0], places.places[0], places)
    again.stop()                                                               # as soon as it is forked
    again.wait_stopped(deadline := time.monotonic() + 100)
    assert time.monotonic() < deadline, "the stop did not reach it"
    assert again.run.status()["state"] == PREEMPTED and forked_from(runs[0]) == server.process.pid
    again.stop()                                                               # of a run that has ended: nothing


def test_runs_outlive_its_death_with_a_checkpoint_and_the_next_is_fresh(study):
    spec, [planned] = study("death", {"seed": [0]}, images=640000, evaluation=None)
    server = ForkServer()
    places = ThisMachine(CORES, [planned], server)
    planned.run.create(run_record(spec, planned))
    active = ActiveRun(planned, places.places[0], places)
    wait_for(lambda: active.run.status()["images_seen"])
    server.process.kill()
    wait_for(active.poll)
    status = active.run.status()
    assert status["state"] == PREEMPTED and status["reason"] == "SIGTERM" and status["images_seen"] > 0 and (active.run.checkpoints / "latest").exists()
    command = places.command(planned, places.places[0], False)
    fresh = replace(command, cold=Command((sys.executable, "-c", "print('fresh')"), {})).start(planned.run.log)
    assert isinstance(fresh, subprocess.Popen) and fresh.wait(100) == 0 and planned.run.log.read_text().splitlines()[-1] == "fresh"
    server.close()


def test_what_is_not_forked(study, server, monkeypatch, tmp_path):
    """Several ranks, a kind of accelerator that was not tried, other variables than its own, and where it cannot be started."""
    _, [one] = study("one", {"seed": [0]})
    _, [two] = study("two", {"resources.accelerators_per_run": [2]})
    for planned, which in ((one, WarmCommand), (two, Command)):
        assert type(ThisMachine(CORES, [planned], server).command(planned, (0, 1), False)) is which
    with closing(ForkServer()) as other:
        monkeypatch.setenv("DS_ACCELERATOR", "xpu")
        assert other.fork({}, warm.environment_of({}), 1) is None and other.is_lost
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert type(ThisMachine(CORES, [one]).command(one, (0,), False)) is Command
    cold = Command((sys.executable, "-c", "print('fresh')"), {})

    def started(by):
        log = tmp_path / "log"
        process = WarmCommand(by, cold, (str(tmp_path),), (0,)).start(log)
        assert exit_code(process) == (2 if isinstance(process, Forked) else 0)
        return log.read_text()

    fork(server, tmp_path / "nowhere", tmp_path / "first")                     # it is there, and has its variables
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "fresh" in started(server)
    full, (ours, theirs) = ForkServer(), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    full.process, full.channel, full.environment = server.process, ours, warm.environment_of({})
    with ours, theirs:                                                         # the system has no process left: this run alone is fresh
        theirs.send(json.dumps({"pid": None}).encode())
        assert "fresh" in started(full) and not full.is_lost
    monkeypatch.setattr(warm, "MODULE", "no.such.module")
    with closing(ForkServer()) as broken:
        assert started(broken).endswith("fresh\n") and broken.is_lost


def test_a_launcher_that_cannot_be_copied_starts_processes(repository):
    """It has reserved twice the machine's memory, without using it."""
    script = ("import mmap, os, subprocess, sys\n"
              "from ditscale.studies.launchers.process import started\n"
              "whole = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')\n"
              "kept = [mmap.mmap(-1, whole // 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(8)]\n"
              "child = started([sys.executable, '-c', 'import os; print(os.getsid(0) == os.getpid())'], stdout=subprocess.PIPE)\n"
              "print(child.communicate()[0].decode(), child.returncode)\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == ["True", "0"], done.stderr
