"""Ask runs to save a checkpoint and end: jobs in SLURM by signal, runs of this host by their process."""

import os
import signal
import socket

from rich.console import Console

from ditscale.rundir import RUNNING
from ditscale.studies.launchers.queue import Job, ask, live_jobs
from ditscale.studies.spec import PlannedRun, Spec
from ditscale.studies.watch import say


def stop(spec: Spec, runs: list[PlannedRun], console: Console) -> bool:
    """Ask each of these runs that is running or waits in SLURM; False where one is out of reach. Returns at once.

    A launcher on this host goes on with its other runs.
    """
    jobs, reached, asked = live_jobs(spec), True, 0
    for planned in runs:
        status = planned.run.status()
        if planned.run_id in jobs:
            asked += 1
            say(console, f"{planned.run_id}: {_stop_job(jobs[planned.run_id])}")
        elif status["state"] == RUNNING and status["host"] != socket.gethostname():
            reached = False
            say(console, f"{planned.run_id}: runs on {status['host']}, if it still does; call ditscale stop there")
        elif status["state"] == RUNNING and planned.run.is_locked():
            asked += 1
            os.kill(status["pid"], signal.SIGTERM)                             # rank 0; it tells the others
            say(console, f"{planned.run_id}: process {status['pid']} saves a checkpoint and ends")
    if reached and not asked:
        say(console, f"{spec.name}: none of {len(runs)} run(s) is running")
    return reached


def _stop_job(job: Job) -> str:
    """What becomes of the job."""
    if job.state == "PENDING":
        ask("scancel", job.id)
        return f"job {job.id} is taken from the queue"
    ask("scontrol", "update", f"JobId={job.id}", "Requeue=0")                  # or its script would submit it again
    ask("scancel", "--signal=USR1", job.id)
    return f"job {job.id} saves a checkpoint and ends"
