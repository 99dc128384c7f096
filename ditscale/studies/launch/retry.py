"""Which failed runs to try again: not for ever."""

from rich.console import Console

from ditscale.rundir import FAILED
from ditscale.studies.launch.watch import say
from ditscale.studies.launchers import live_jobs
from ditscale.studies.spec.spec import PlannedRun, Spec


def failed_runs(spec: Spec, runs: list[PlannedRun], limit: int, console: Console) -> list[PlannedRun]:
    """The failed runs that have no job already, without those that have failed ``limit`` times, which are named."""
    jobs, again = live_jobs(spec), []
    for planned in runs:
        status = planned.run.status()
        if status["state"] != FAILED or planned.run_id in jobs:
            continue
        if status.get("failures", 1) < limit:
            again.append(planned)
        else:
            say(console, f"left: {planned.run_id} failed {status.get('failures', 1)} time(s), last: {status['reason']}")
    if not again:
        say(console, f"{spec.name}: no run to try again")
    return again
