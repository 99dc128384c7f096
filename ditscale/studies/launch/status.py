"""The status of each run of a study, once or live, from the run directories and from a queue if one is used.

Clocks of different machines are never compared: the time left follows from a run's own speed.
"""

import statistics
import time
from collections import Counter
from dataclasses import dataclass, replace

from rich.live import Live
from rich.table import Table
from rich.text import Text

from ditscale import terminal
from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import LOSS
from ditscale.rundir import DONE, FAILED, PREEMPTED, QUEUED, RUNNING, last_line, read_lines
from ditscale.studies.alarms import Sibling, warnings_of
from ditscale.studies.launch.launch import is_complete
from ditscale.studies.launchers import live_jobs
from ditscale.studies.launchers.protocol import Job
from ditscale.studies.plan.show import as_speed, as_time, names
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.checkpoint.branch import why_never

INTERRUPTED = "interrupted"                                                    # its process died without a final status
AT_REST = (INTERRUPTED, FAILED, PREEMPTED, QUEUED, DONE)                       # in this order behind what moves
ROWS_BESIDE = 6                                                                # of a terminal: title, heading, frame, caption


@dataclass(frozen=True)
class Standing:
    """The current state of one run, as in its row; empty texts are unknown."""

    run_id: str
    state: str
    progress: str                                                              # images seen / of
    speed: str                                                                 # images/s, the last that was logged
    left: str                                                                  # of training, at that speed
    score: str                                                                 # the last
    loss: str                                                                  # of validation, the last
    where: str                                                                 # its job in a queue, the host that wrote last
    why: str
    recipe: str                                                                # runs of one recipe differ only in the seed
    settings: str                                                              # what the study sets and the run's id does not say


def standings(spec: Spec, runs: list[PlannedRun]) -> list[Standing]:
    """Each run's, in the study's order."""
    jobs = live_jobs(spec)
    alarms = warnings_of([Sibling(planned.run, planned.config) for planned in runs])
    return [_standing(planned, jobs.get(planned.run_id), alarms.get(planned.run_id, "")) for planned in runs]


def _standing(planned: PlannedRun, job: Job | None, alarm: str) -> Standing:
    run, images = planned.run, planned.config.train.images
    status, metrics = run.status(), last_line(run.metrics, "images_per_second")
    last = {line.get("metric") == LOSS: line["score"] for line in read_lines(run.evals, "score")}
    state = status["state"]
    if state == RUNNING and not job and not run.is_locked():
        state = INTERRUPTED
    elif state != RUNNING and job:
        state = job.state.lower()                                              # the queue's word: pending, configuring, ...
    speed = metrics["images_per_second"] if metrics else 0
    left = as_time((images - status["images_seen"]) / speed) if speed and state == RUNNING else ""
    where = ", ".join(filter(None, (job and f"job {job.id}", status.get("host") if state != QUEUED else "")))
    return Standing(planned.run_id, state, f"{status['images_seen']:,} / {images:,}", as_speed(speed) if metrics else "", left,
                    f"{last[False]:.2f}" if False in last else "", f"{last[True]:.4f}" if True in last else "", where,
                    "; ".join(filter(None, (_branch(planned), status.get("reason"), status.get("warning"), alarm))),
                    planned.config.recipe(), planned.settings)


def _branch(planned: PlannedRun) -> str:
    """Where a branch starts, or why it will not."""
    if planned.config.parent is None:
        return ""
    return why_never(planned.run, planned.config) or f"branch from {planned.config.parent.images:,} images of its trunk"


def status_table(spec: Spec, found: list[Standing], rows: int | None = None, counted: list[Standing] | None = None) -> Table:
    """A row a run, of the first ``rows`` alone where that is given; the title counts the states of all (``counted``, by default these)."""
    numbers = Counter(one.state for one in (counted or found))
    counts = ", ".join(f"{numbers[state]} {state}" for state in sorted(numbers, key=_rank))
    table = Table(title=f"{spec.name}: {counts}", title_justify="left", caption_justify="left",
                  caption=f"and {len(found) - rows} more" if rows and len(found) > rows else None)
    has_loss = any(one.loss for one in found)
    metric = (spec.config.get("evaluation") or {}).get("metric", "score") if spec.metric.name == LOSS else spec.metric.name
    for name in ("run", "state", "images", "last images/s", "left", metric, *(["validation loss"] * has_loss), "where", "why"):
        table.add_column(Text(name), justify="left" if name in ("run", "state", "where", "why") else "right", no_wrap=name == "run")
    for one in found[:rows]:
        losses = (one.loss,) * has_loss
        table.add_row(*map(Text, (one.run_id, one.state, one.progress, one.speed, one.left, one.score, *losses, one.where, one.why)))
    return table


def together(found: list[Standing]) -> list[Standing]:
    """Merges runs that differ only in the seed, if all are queued, or all are done without remarks: mean scores, with their own
    number of digits."""
    groups: dict[tuple, list[Standing]] = {}
    for one in found:
        own = one.run_id if one.state not in (QUEUED, DONE) else ""
        groups.setdefault((one.recipe, one.state, one.progress, one.why, own), []).append(one)
    return [replace(group[0], run_id=f"{group[0].run_id} ({group[0].settings})" if name.endswith(")") else group[0].run_id) if len(group) == 1 else replace(
        group[0], run_id=f"{name} x {len(group)}", speed=_mean(group, "speed", 0), score=_mean(group, "score", 2),
        loss=_mean(group, "loss", 4), where=", ".join(dict.fromkeys(one.where for one in group if one.where)))
        for name, group in zip(names(list(groups.values())), groups.values())]


def _mean(group: list[Standing], column: str, digits: int) -> str:
    values = [float(getattr(one, column).replace(",", "")) for one in group if getattr(one, column)]
    if len(values) < len(group):
        return ""
    mean = statistics.fmean(values)
    return f"{mean:,.{digits}f}" if digits else as_speed(mean)


def _rank(state: str) -> int:
    """The order of a state: active, then failed or waiting, then done."""
    return AT_REST.index(state) if state in AT_REST else -1


def show_status(spec: Spec, runs: list[PlannedRun], *, wide: bool = False) -> None:
    """Prints the table; runs that differ only in the seed share a row, unless ``wide``."""
    found = standings(spec, runs)
    terminal.console().print(status_table(spec, found if wide else together(found), counted=found))


def watch_status(spec: Spec, runs: list[PlannedRun], seconds: float) -> None:
    """Updates the table every ``seconds``, active runs first, until all runs are done or Ctrl-C; a pipe gets only the last one."""
    console = terminal.console()
    rows = max(1, console.height - ROWS_BESIDE) if console.is_terminal else None
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                try:
                    found = sorted(standings(spec, runs), key=lambda one: _rank(one.state))
                except UserError as error:                                     # a queue that temporarily does not answer
                    console.print(f"{error}; retrying in {seconds:g} s", markup=False)
                else:
                    live.update(status_table(spec, found, rows), refresh=True)
                    if all(is_complete(planned) for planned in runs):
                        return
                time.sleep(seconds)
        except KeyboardInterrupt:
            pass
