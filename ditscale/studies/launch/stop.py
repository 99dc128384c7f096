"""Asks runs to save a checkpoint and end: jobs through their queue, runs on this host through their processes."""

import os
import signal
import socket
from pathlib import Path

from rich.console import Console

from ditscale.errors import UserError, count
from ditscale.rundir import RUNNING
from ditscale.studies.launch.watch import say
from ditscale.studies.launchers import live_jobs
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.preemption import LAUNCHER_PID


def stop(spec: Spec, runs: list[PlannedRun], all_of_it: bool, console: Console) -> bool:
    """Asks each of these runs that is running or queued to stop; False if one cannot be reached. Returns at once.

    With ``all_of_it`` a launcher on this host is also asked to end; otherwise it continues with waiting runs.
    """
    jobs, reached, processes = live_jobs(spec), True, set()
    for planned in runs:
        status = planned.run.status()
        if planned.run_id in jobs:
            job = jobs[planned.run_id]
            say(console, f"{planned.run_id}: {job.queue.stop(job)}")
        elif status["state"] == RUNNING and status["host"] != socket.gethostname():
            reached = False
            say(console, f"{planned.run_id}: was last running on {status['host']}; call ditscale stop there")
        elif status["state"] == RUNNING and planned.run.is_locked():
            processes.add(all_of_it and _launcher_of(status["pid"]) or status["pid"])  # rank 0 informs the others
            say(console, f"{planned.run_id}: process {status['pid']} saves a checkpoint and ends")
    for process in processes:
        _terminate(process)
    if reached and not jobs and not processes:
        say(console, f"{spec.name}: none of {count(len(runs), 'run')} is running")
    return reached


def _launcher_of(process: int) -> int | None:
    """The ``ditscale launch`` that started a worker, from the worker's environment."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    found = [value for name, _, value in (variable.partition(b"=") for variable in variables) if name == LAUNCHER_PID.encode()]
    return int(found[0]) if found else None


def _terminate(process: int) -> None:
    try:
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        pass                                                                   # it has just ended
    except PermissionError:
        raise UserError(f"process {process} belongs to another user; only they can stop it") from None
