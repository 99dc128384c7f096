"""Runs on this machine, each under the ``deepspeed`` launcher, packed on the GPUs or cores that there are."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from ditscale.cost.hardware import Machine
from ditscale.errors import UserError
from ditscale.rundir import DONE, FAILED, PREEMPTED, RunDir
from ditscale.studies.spec import PlannedRun
from ditscale.training.ports import free_port
from ditscale.training.preemption import LAUNCHER_PID

STOP_SECONDS = 120                                                             # for a checkpoint to be written after SIGTERM


class LocalRun:
    """A run in progress here: the process group of its ``deepspeed`` command, or one that someone else started.

    A run that is done but not scored is evaluated.
    """

    def __init__(self, planned: PlannedRun, devices: list[int], machine: Machine):
        self.planned, self.devices = planned, devices
        self.evaluates = planned.run.status()["state"] == DONE
        self.process = None if planned.run.is_locked() else _start(planned, devices, machine, self.evaluates)

    @property
    def run(self) -> RunDir:
        return self.planned.run

    def poll(self) -> bool:
        """Whether the run has ended; its final status is then on disk."""
        if self.process is None:
            return not self.run.is_locked()
        if self.process.poll() is None:
            return False
        if self.run.is_locked():                                               # the deepspeed command died before its workers
            return False
        self._settle()
        return True

    def stop(self) -> None:
        """Ask the run to save a checkpoint and end. Runs of another launcher are left alone."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)

    def wait_stopped(self, deadline: float) -> None:
        """Wait for a stopped run to end; past the deadline it is killed. Runs of another launcher are not waited for."""
        while self.process and not self.poll():
            if time.monotonic() > deadline:
                _kill_group(self.process.pid)
            time.sleep(0.1)

    def _settle(self) -> None:
        """A worker that was killed could not write its end: say so in its place."""
        status = self.run.status()
        if status["state"] not in (DONE, FAILED, PREEMPTED):
            self.run.set_status(FAILED, images_seen=status["images_seen"],
                                reason=f"ended with exit code {self.process.returncode}: {_last_line(self.run.log)}")


def slots(machine: Machine, runs: list[PlannedRun]) -> int:
    """How many runs go at once."""
    ranks = max(planned.config.resources.accelerators_per_run for planned in runs)
    if machine.kind == "gpu" and ranks > machine.devices:
        raise UserError(f"resources.accelerators_per_run is {ranks} but this machine has {machine.devices} GPU(s)")
    return max(1, machine.devices // ranks)


def _start(planned: PlannedRun, devices: list[int], machine: Machine, evaluates: bool) -> subprocess.Popen:
    ranks = planned.config.resources.accelerators_per_run
    deepspeed = shutil.which("deepspeed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if not deepspeed:
        raise UserError("the 'deepspeed' command is not found; install ditscale with its requirements (make setup)")
    where = ["--num_accelerators", str(ranks)]
    if machine.kind == "gpu":
        where = ["--include", "localhost:" + ",".join(map(str, devices[:ranks]))]
    command = [deepspeed, *where, "--master_port", str(free_port()), "--no_local_rank", "--module", "ditscale.studies.worker",
               str(planned.run.path), *(["evaluate"] if evaluates else [])]
    threads = max(1, len(devices) * machine.threads_per_device // ranks)
    env = {**os.environ, LAUNCHER_PID: str(os.getpid()), "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    if machine.kind == "cpu":
        env.setdefault("DS_ACCELERATOR", "cpu")
    with open(planned.run.log, "a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env,
                                start_new_session=True, preexec_fn=_die_with_parent)


def _die_with_parent() -> None:
    """Linux: SIGTERM to the deepspeed command when this launcher dies, however it dies."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "(empty log)"
