"""Launch a study: start what is missing, go on with what stopped, leave what is done. All state is read from files."""

import signal
import time
from dataclasses import asdict

from rich.console import Console

from ditscale.cost.hardware import Machine
from ditscale.cost.runs import run_card
from ditscale.rundir import DONE, read_lines
from ditscale.studies.launchers.local import STOP_SECONDS, LocalRun, slots
from ditscale.studies.plan import plan_rows
from ditscale.studies.spec import PlannedRun, Spec
from ditscale.studies.watch import Bars, say
from ditscale.training.schedule import due_images


def launch(spec: Spec, runs: list[PlannedRun], machine: Machine, console: Console, watch=Bars) -> bool:
    """Run everything that is not done, the longest first; True when all runs are done.

    ``watch`` shows it, see watch.py. Ctrl-C and SIGTERM ask the runs to save a checkpoint and end, and raise KeyboardInterrupt
    when they have.
    """
    at_once = slots(machine, runs)
    for planned in runs:
        planned.run.create(run_record(spec, planned))
    seconds = {row.run_id: row.seconds_left for row in plan_rows(runs, machine)}
    waiting = sorted((planned for planned in runs if not is_complete(planned)), key=lambda planned: -seconds[planned.run_id])
    previous = signal.signal(signal.SIGTERM, _interrupt)
    active: list[LocalRun] = []
    try:
        with watch(console, spec, runs, at_once) as shown:
            try:
                _run_all(waiting, active, machine, at_once, shown)
            except KeyboardInterrupt:
                say(console, "stopping: each run saves a checkpoint ...")
                for run in active:
                    run.stop()
                for run in active:
                    run.wait_stopped(time.monotonic() + STOP_SECONDS)
                shown.update(active)
                say(console, "stopped; the same command goes on from here")
                raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    return all(is_complete(planned) for planned in runs)


def is_complete(planned: PlannedRun) -> bool:
    """Whether a run is trained and, where that is a job of its own, scored."""
    if planned.run.status()["state"] != DONE or planned.config.resources.evaluate != "separately":
        return planned.run.status()["state"] == DONE
    scored = {line["images_seen"] for line in read_lines(planned.run.evals)}
    return scored.issuperset(due_images(planned.config))


def run_record(spec: Spec, planned: PlannedRun) -> dict:
    """What ``run.json`` says before the run starts: identity, resolved config, cost card."""
    card = run_card(planned.config)
    return {"run_id": planned.run_id, "study": spec.name, "metric": spec.metric.model_dump(),
            "config": planned.config.model_dump(mode="json"), "science_hash": planned.config.science_hash(),
            "cost": {**asdict(card), "macs": card.macs, "train_flops_per_image": card.train_flops_per_image}}


def _run_all(waiting: list[PlannedRun], active: list[LocalRun], machine: Machine, at_once: int, shown) -> None:
    per_run = max(1, machine.devices // at_once)
    free = [list(range(i * per_run, (i + 1) * per_run)) for i in range(at_once)]
    while waiting or active:
        while waiting and free:
            active.append(LocalRun(waiting.pop(0), free.pop(0), machine))
            shown.started(active[-1])
        for run in [run for run in active if run.poll()]:
            active.remove(run)
            free.append(run.devices)
            shown.ended(run)
            if not run.evaluates and run.run.status()["state"] == DONE and not is_complete(run.planned):
                waiting.insert(0, run.planned)                                 # to be scored, by a job of its own
        shown.update(active)
        time.sleep(0.2)


def _interrupt(number, frame):
    raise KeyboardInterrupt
