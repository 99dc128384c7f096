"""Launch a study: start what is missing, go on with what stopped, leave what is done. All state is read from files."""

import signal
import sys
import time
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ditscale.cost.hardware import Machine
from ditscale.cost.runs import run_card
from ditscale.rundir import DONE, FAILED
from ditscale.studies.launchers.local import STOP_SECONDS, LocalRun, slots
from ditscale.studies.plan import plan_rows
from ditscale.studies.spec import PlannedRun, Spec

LINE_SECONDS = 30                                                              # between progress lines where there is no terminal


def launch(spec: Spec, runs: list[PlannedRun], machine: Machine, console: Console) -> bool:
    """Run everything that is not done, the longest first; True when all runs are done.

    Ctrl-C and SIGTERM ask the runs to save a checkpoint and end, and raise KeyboardInterrupt when they have.
    """
    at_once = slots(machine, runs)
    for planned in runs:
        planned.run.create(run_record(spec, planned))
    seconds = {row.run_id: row.seconds_left for row in plan_rows(runs, machine)}
    waiting = sorted((p for p in runs if p.run.status()["state"] != DONE), key=lambda p: -seconds[p.run_id])
    say(console, f"{spec.name}: {len(runs)} runs, {len(runs) - len(waiting)} done, {len(waiting)} to run, {at_once} at once")
    if not waiting:
        return True
    previous = signal.signal(signal.SIGTERM, _interrupt)
    active: list[LocalRun] = []
    try:
        with _progress(console) as progress:
            _run_all(waiting, active, machine, at_once, _Bars(progress, runs, console))
    except KeyboardInterrupt:
        say(console, "stopping: each run saves a checkpoint ...")
        for run in active:
            run.stop()
        for run in active:
            run.wait_stopped(time.monotonic() + STOP_SECONDS)
        say(console, "stopped; launch again to go on")
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    return all(planned.run.status()["state"] == DONE for planned in runs)


def run_record(spec: Spec, planned: PlannedRun) -> dict:
    """What ``run.json`` says before the run starts: identity, resolved config, cost card."""
    card = run_card(planned.config)
    return {"run_id": planned.run_id, "study": spec.name, "metric": spec.metric.model_dump(),
            "config": planned.config.model_dump(mode="json"), "science_hash": planned.config.science_hash(),
            "cost": {**asdict(card), "macs": card.macs, "train_flops_per_image": card.train_flops_per_image}}


def _run_all(waiting: list[PlannedRun], active: list[LocalRun], machine: Machine, at_once: int, bars: "_Bars") -> None:
    per_run = max(1, machine.devices // at_once)
    free = [list(range(i * per_run, (i + 1) * per_run)) for i in range(at_once)]
    while waiting or active:
        while waiting and free:
            active.append(LocalRun(waiting.pop(0), free.pop(0), machine))
            bars.started(active[-1])
        for run in [run for run in active if run.poll()]:
            active.remove(run)
            free.append(run.devices)
            bars.ended(run)
        bars.update(active)
        time.sleep(0.2)


class _Bars:
    """Progress of the study: a bar for all runs and one for each active run; plain lines where there is no terminal."""

    def __init__(self, progress: Progress, runs: list[PlannedRun], console: Console):
        self.progress, self.console = progress, console
        self.next_line = time.monotonic() + LINE_SECONDS
        self.total = progress.add_task("all runs", total=len(runs), completed=sum(p.run.status()["state"] == DONE for p in runs))
        self.tasks = {}

    def started(self, active: LocalRun) -> None:
        verb = "going on with" if active.run.status()["images_seen"] else "starting"
        if active.process is None:
            verb = "already running elsewhere:"
        say(self.console, f"{verb} {active.run.run_id}")
        self.tasks[active.run.run_id] = self.progress.add_task(active.planned.config.model.name,
                                                               total=active.planned.config.train.images)

    def update(self, active: list[LocalRun]) -> None:
        seen = {run: run.run.status()["images_seen"] for run in active}
        for run, images in seen.items():
            self.progress.update(self.tasks[run.run.run_id], completed=images)
        if not self.console.is_terminal and time.monotonic() > self.next_line:
            self.next_line = time.monotonic() + LINE_SECONDS
            say(self.console, "  ".join(f"{run.planned.config.model.name} {images:,}/{run.planned.config.train.images:,} images"
                                        for run, images in seen.items()))

    def ended(self, run: LocalRun) -> None:
        status = run.run.status()
        self.progress.remove_task(self.tasks.pop(run.run.run_id))
        self.progress.update(self.total, advance=status["state"] == DONE)
        say(self.console, f"{status['state']}: {run.run.run_id}" + (f" ({status['reason']})" if status["state"] == FAILED else ""))
        if status["state"] == FAILED:
            say(self.console, f"  its log: {run.run.log}")


def say(console: Console, line: str) -> None:
    """Print one line, as it is: not wrapped, no markup."""
    console.print(line, markup=False, soft_wrap=True)


def _progress(console: Console) -> Progress:
    return Progress(TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                    TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True,
                    redirect_stdout=sys.stdout.isatty(), redirect_stderr=sys.stdout.isatty())


def _interrupt(number, frame):
    raise KeyboardInterrupt
