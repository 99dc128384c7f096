"""A command that works on one run, as a process group on this machine."""

import ctypes
import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ditscale.errors import UserError
from ditscale.rundir import DONE, RunDir
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.preemption import LAUNCHER_PID
from ditscale.writing import writing

STOP_SECONDS = 120                                                             # for a checkpoint to be written after SIGTERM


@dataclass(frozen=True)
class Command:
    """The words of a command, and the variables that it needs in addition to the environment."""

    words: tuple[str, ...]
    environment: dict[str, str]

    def __str__(self) -> str:
        """As typed in a shell."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()), shlex.join(self.words)])

    def start(self, log: Path) -> subprocess.Popen:
        """Starts a separate process group that ends with this process; its output is appended to the log."""
        with writing(log), open(log, "a") as file:
            file.write(f"$ {self}\n")
            file.flush()
            return started(list(self.words), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment_of(self.environment))


class Process(Protocol):
    """The interface of a process that works on a run, the leader of a process group."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...


class ActiveRun:
    """A run in progress here: the process group of its command, or one that someone else started.

    A run that is done but not scored is evaluated.

    Args:
        place: where the run goes, one of its launcher's ``places``.
    """

    def __init__(self, planned: PlannedRun, place, launcher):
        self.planned, self.place = planned, place
        self.evaluates, self.was_asked, self.since = planned.run.status()["state"] == DONE, False, time.time()
        self.process = None if planned.run.is_locked() else launcher.command(planned, place, self.evaluates).start(planned.run.log)

    @property
    def run(self) -> RunDir:
        return self.planned.run

    def poll(self) -> bool:
        """Whether the run has ended; its final status is on disk by then."""
        if self.process is None:
            return not self.run.is_locked()
        if self.process.poll() is None:
            return False
        if self.run.is_locked():                                               # the deepspeed command died before its workers
            return False
        with writing(self.run.path):
            self.run.settle(self.process.returncode, since=self.since, was_asked=self.was_asked)
        return True

    @property
    def needs_a_look(self) -> bool:
        """Whether its process has ended, so that ``poll`` may return true."""
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> None:
        """Asks the run to save a checkpoint and end; not a run of another launcher."""
        if self.process and self.process.poll() is None:
            self.was_asked = True
            with suppress(ProcessLookupError):                                 # it has just ended and was already reaped
                os.killpg(self.process.pid, signal.SIGTERM)

    def wait_stopped(self, deadline: float) -> None:
        """Wait for a stopped run to end; after the deadline it is killed. Does not wait for a run of another launcher."""
        while self.process and not self.poll():
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
            time.sleep(0.1)


def deepspeed() -> str:
    """The ``deepspeed`` command of this Python, or the one on the PATH."""
    found = shutil.which("deepspeed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if not found:
        raise UserError("the 'deepspeed' command is not found; install ditscale again with its requirements")
    return found


def worker_words(planned: PlannedRun, evaluates: bool) -> tuple[str, ...]:
    """The words after ``deepspeed`` and its options: this run's worker."""
    return ("--no_local_rank", "--module", "ditscale.studies.launch.worker", *worker_arguments(planned, evaluates))


def worker_arguments(planned: PlannedRun, evaluates: bool) -> tuple[str, ...]:
    """The worker's arguments."""
    return (str(planned.run.path), *(["evaluate"] if evaluates else []))


def environment_of(more: dict[str, str]) -> dict[str, str]:
    """The variables of a process that works on a run: the environment, ``more``, and the id of its starter."""
    return {**os.environ, **more, LAUNCHER_PID: str(os.getpid()), "PYTHONUNBUFFERED": "1"}


def started(words: list[str], **options) -> subprocess.Popen:
    """A process in a session of its own, which ends with this one. A process that has reserved more memory than the machine has (a notebook, for
    example) cannot be copied, as running code in the child needs: there it starts without, and may outlive this one."""
    try:
        return subprocess.Popen(words, start_new_session=True, preexec_fn=die_with_parent, **options)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return subprocess.Popen(words, start_new_session=True, **options)


def die_with_parent() -> None:
    """Linux: SIGTERM to the deepspeed command when this launcher dies for any reason."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
