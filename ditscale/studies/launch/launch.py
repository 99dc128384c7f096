"""Launches a study: starts what is missing, resumes what stopped, and skips what is done. All state is read from files."""

import signal
import time
from dataclasses import asdict

from rich.console import Console

from ditscale.cost.hardware import Machine
from ditscale.cost.runs import optimizer_flops, run_card
from ditscale.evaluation.metrics.table import LOSS
from ditscale.rundir import DONE, read_lines
from ditscale.studies.launch.watch import Bars, say
from ditscale.studies.launchers import live_jobs
from ditscale.studies.launchers.process import STOP_SECONDS, ActiveRun
from ditscale.studies.launchers.protocol import Job, Places
from ditscale.studies.plan.plan import MEASURED, PlanRow, plan_rows
from ditscale.studies.plan.probe import read_probes
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.checkpoint.branch import why_not_yet
from ditscale.training.schedule import due_images

SHOWN_SECONDS, LOOK_SECONDS = 0.2, 0.02                                        # between updates of the display and checks of processes


def launch(spec: Spec, runs: list[PlannedRun], launcher: Places, machine: Machine, console: Console, watch=Bars) -> bool:
    """Runs everything that is not done and not in a queue, the longest first, branches as soon as their trunk has the state that they start from;
    True when all runs are done.

    ``launcher`` chooses where runs go and by which command (see launchers/protocol.py), ``watch`` displays them (see watch.py). Ctrl-C and
    SIGTERM make the runs save a checkpoint and end; then KeyboardInterrupt is raised.
    """
    jobs = live_jobs(spec)
    priced = _priced(spec, runs, machine, jobs)
    waiting = [planned for planned, _ in priced]
    for planned in runs:
        if planned.run_id in jobs and not is_complete(planned):
            say(console, f"left alone: {planned.run_id} has a job in {jobs[planned.run_id].queue.label}")
    for planned, row in priced:
        planned.run.create(run_record(spec, planned, forecast_record(row, machine)))
    previous = signal.signal(signal.SIGTERM, _interrupt)
    active: list[ActiveRun] = []
    try:
        with watch(console, spec, runs, len(launcher.places)) as shown:
            try:
                for planned in _run_all(waiting, active, launcher, shown):
                    say(console, f"not started: {planned.run_id}: {why_not_yet(planned.run, planned.config)}")
            except KeyboardInterrupt:
                say(console, "stopping: each run saves a checkpoint ...")
                for run in active:
                    run.stop()
                for run in active:
                    run.wait_stopped(time.monotonic() + STOP_SECONDS)
                shown.update(active)
                say(console, "stopped; run the same command to continue")
                raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    return all(is_complete(planned) for planned in runs)


def to_run(spec: Spec, runs: list[PlannedRun], machine: Machine, jobs: dict[str, Job] | None = None) -> list[PlannedRun]:
    """The runs that a launch would start: those that are not done and have no job, the longest first. ``jobs`` are those of the queues, if known."""
    return [planned for planned, _ in _priced(spec, runs, machine, live_jobs(spec) if jobs is None else jobs)]


def _priced(spec: Spec, runs: list[PlannedRun], machine: Machine, jobs: dict[str, Job]) -> list[tuple[PlannedRun, PlanRow]]:
    """What ``to_run`` returns, each with what ``plan`` says of it."""
    rows = zip(runs, plan_rows(runs, machine, read_probes(spec, machine)))
    missing = [(planned, row) for planned, row in rows if not is_complete(planned) and planned.run_id not in jobs]
    return sorted(missing, key=lambda pair: -pair[1].seconds_left)


def is_complete(planned: PlannedRun) -> bool:
    """Whether a run is trained and, if that is a separate job, scored."""
    trained = planned.run.status()["state"] == DONE
    if not trained or planned.config.resources.evaluate != "separately":
        return trained
    scored = {line["images_seen"] for line in read_lines(planned.run.evals) if line.get("metric") != LOSS}
    return scored.issuperset(due_images(planned.config))


def forecast_record(row: PlanRow, machine: Machine) -> dict | None:
    """What the plan says that the whole of a run's own training takes on this kind of machine, for its record; None once it has begun."""
    if row.basis == MEASURED or row.images_seen > row.start_images or not row.images_per_second:
        return None
    return {"train_seconds": (row.images - row.start_images) / row.images_per_second, "basis": row.basis, "device": machine.name}


def run_record(spec: Spec, planned: PlannedRun, forecast: dict | None = None) -> dict:
    """The content of ``run.json`` before the run starts: identity, resolved config, cost card, and what it was forecast to take."""
    card, products = run_card(planned.config), optimizer_flops(planned.config)
    return {"run_id": planned.run_id, "study": spec.name, "metric": spec.metric.model_dump(),
            "config": planned.config.model_dump(mode="json"), "science_hash": planned.config.science_hash(),
            "cost": {**asdict(card), "macs": card.macs, "train_flops_per_image": card.train_flops_per_image,
                     **({"optimizer_flops_per_step": products} if products else {})},
            **({"forecast": forecast} if forecast else {})}


def can_start(planned: PlannedRun) -> bool:
    """Whether a run need not wait for its trunk."""
    return not why_not_yet(planned.run, planned.config)


def _run_all(waiting: list[PlannedRun], active: list[ActiveRun], launcher, shown) -> list[PlannedRun]:
    """Returns the branches that could not start, as nothing is active that they could wait for."""
    free = list(launcher.places)
    while waiting or active:
        while free and (ready := next(filter(can_start, waiting), None)):
            waiting.remove(ready)
            active.append(ActiveRun(ready, free.pop(0), launcher))
            shown.started(active[-1])
        if not active:
            break
        for run in [run for run in active if run.poll()]:
            active.remove(run)
            free.append(run.place)
            shown.ended(run)
            if not run.evaluates and run.run.status()["state"] == DONE and not is_complete(run.planned):
                waiting.insert(0, run.planned)                                 # to be scored by a separate job
        shown.update(active)
        _pause(active)
    return waiting


def _pause(active: list[ActiveRun]) -> None:
    """Waits until a run ends, so that the next can start, but at most until the next update of the display."""
    ends = time.monotonic() + SHOWN_SECONDS
    time.sleep(LOOK_SECONDS)
    while time.monotonic() < ends and not any(run.needs_a_look for run in active):
        time.sleep(LOOK_SECONDS)


def _interrupt(number, frame):
    raise KeyboardInterrupt
