"""The terminal output while runs are active: bars for a study, the log itself for one run.

A watcher is a context manager; within it, call ``started``, ``update`` and ``ended``.
"""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ditscale.errors import count
from ditscale.rundir import DONE, FAILED, RUNNING
from ditscale.studies.launchers.process import ActiveRun
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun

LINE_SECONDS = 30                                                              # between progress lines without a terminal
LAUNCHER_CHATTER = "] [INFO] ["                                                # in DeepSpeed's own lines that only inform


class Bars:
    """A bar for all runs and one for each active run; plain lines without a terminal."""

    def __init__(self, console: Console, spec: Spec, runs: list[PlannedRun], at_once: int):
        done = sum(planned.run.status()["state"] == DONE for planned in runs)
        say(console, f"{spec.name}: {count(len(runs), 'run')}, {done} done, {len(runs) - done} to run, {at_once} at once")
        self.console, self.progress = console, _progress(console)
        self.next_line = time.monotonic() + LINE_SECONDS
        self.total = self.progress.add_task("all runs", total=len(runs), completed=done)
        self.tasks: dict[str, TaskID] = {}                                     # by run id
        self.said: dict[str, str] = {}                                         # by run id: the last reason that was shown

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *error):
        self.progress.stop()

    def started(self, active: ActiveRun) -> None:
        say(self.console, f"{_beginning(active)} {active.run.run_id}")
        self.tasks[active.run.run_id] = self.progress.add_task(active.planned.config.model.name,
                                                               total=active.planned.config.train.images)

    def update(self, active: list[ActiveRun]) -> None:
        seen = {run: run.run.status() for run in active}
        for run, status in seen.items():
            self.progress.update(self.tasks[run.run.run_id], completed=status["images_seen"])
            self._wait(run.run.run_id, status)
        if not self.console.is_terminal and time.monotonic() > self.next_line:
            self.next_line = time.monotonic() + LINE_SECONDS
            say(self.console, "  ".join(f"{run.planned.config.model.name} {status['images_seen']:,}"
                                        f"/{run.planned.config.train.images:,} images" for run, status in seen.items()))

    def _wait(self, run_id: str, status: dict) -> None:
        """Prints what a starting run waits for, each time it reports that."""
        reason = status.get("reason", "") if status["state"] == RUNNING else ""
        if reason and reason != self.said.get(run_id):
            say(self.console, f"{run_id}: {reason}")
        self.said[run_id] = reason

    def ended(self, run: ActiveRun) -> None:
        status = run.run.status()
        self.progress.remove_task(self.tasks.pop(run.run.run_id))
        self.progress.update(self.total, advance=status["state"] == DONE and not run.evaluates)
        reason = f" ({status['reason']})" if status["state"] == FAILED else ""
        say(self.console, f"{status['state']}: {run.run.run_id}{reason}")
        if status["state"] == FAILED:
            say(self.console, f"  its log: {run.run.log}")


class Log:
    """The new lines of one run's log, from its current end; DeepSpeed's INFO lines are only in the file."""

    def __init__(self, console: Console, spec: Spec, runs: list[PlannedRun], at_once: int):
        self.console, [planned] = console, runs
        self.path = planned.run.log
        self.position = self.path.stat().st_size if self.path.exists() else 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def started(self, active: ActiveRun) -> None:
        say(self.console, f"{_beginning(active)} {active.run.path}")

    def update(self, active: list[ActiveRun]) -> None:
        if not self.path.exists():
            return
        with open(self.path, "rb") as log:
            log.seek(self.position)
            whole, newline, _ = log.read().rpartition(b"\n")
        self.position += len(whole) + len(newline)
        for line in whole.decode(errors="replace").splitlines():
            if LAUNCHER_CHATTER not in line:
                say(self.console, line)

    def ended(self, run: ActiveRun) -> None:
        self.update([run])


def say(console: Console, line: str) -> None:
    """Prints one line unchanged: not wrapped, no markup."""
    console.print(line, markup=False, soft_wrap=True)


def _beginning(active: ActiveRun) -> str:
    if active.process is None:
        return "already running elsewhere:"
    if active.evaluates:
        return "scoring"
    return "continuing" if active.run.status()["images_seen"] else "starting"


def _progress(console: Console) -> Progress:
    return Progress(TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                    TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True,
                    redirect_stdout=sys.stdout.isatty(), redirect_stderr=sys.stdout.isatty())
