"""What a study will cost, before anything runs: a row a run, measured where a run has begun, forecast where not."""

from dataclasses import dataclass

from ditscale.cost.hardware import Machine
from ditscale.cost.runs import run_card, training_flops
from ditscale.cost.throughput import ASSUMED, evaluation_seconds, start_seconds, training_seconds
from ditscale.rundir import DONE, read_lines
from ditscale.studies.spec import PlannedRun
from ditscale.training.schedule import due_images


@dataclass(frozen=True)
class PlanRow:
    """One run: its size, its compute, what is left to do and how long that takes."""

    run_id: str
    model: str
    state: str
    parameters: int
    tokens: int
    macs: int
    train_flops: int
    images: int
    images_seen: int
    seconds_left: float
    measured: bool


def plan_rows(runs: list[PlannedRun], machine: Machine) -> list[PlanRow]:
    """A row for each run."""
    return [_row(planned, machine) for planned in runs]


def _row(planned: PlannedRun, machine: Machine) -> PlanRow:
    config, card = planned.config, run_card(planned.config)
    status = planned.run.status()
    images_seen = status["images_seen"]
    left = config.train.images - images_seen
    metrics = read_lines(planned.run.metrics)
    measured = sum(line["seconds"] for line in metrics) / max(1, metrics[-1]["images_seen"]) if metrics else 0.0
    checkpoints = sum(due > images_seen for due in due_images(config))
    seconds = 0.0
    if status["state"] != DONE:
        seconds = start_seconds(machine) + evaluation_seconds(config, machine, checkpoints) \
            + (measured * left or training_seconds(config, machine, images_seen))
    return PlanRow(planned.run_id, config.model.name, status["state"], card.parameters, card.tokens, card.macs,
                   training_flops(config, config.train.images), config.train.images, images_seen, seconds, bool(measured))


def makespan(rows: list[PlanRow], slots: int) -> float:
    """Seconds until all runs end when ``slots`` run at once, the longest first."""
    ends = [0.0] * slots
    for seconds in sorted((row.seconds_left for row in rows), reverse=True):
        ends[ends.index(min(ends))] += seconds
    return max(ends)


def assumption_line(machine: Machine, slots: int) -> str:
    """What the forecast rests on, in one sentence."""
    assumed = ASSUMED[machine.kind]
    return (f"Forecast for {machine.devices} x {machine.name} ({machine.peak_flops / 1e9:.0f} GFLOP/s each), {slots} run(s) at once: "
            f"{assumed.train_utilisation:.0%} of peak, {assumed.step_overhead_seconds * 1e3:.0f} ms a step beside the model, "
            f"{assumed.start_seconds:.0f} s to start; runs already begun use their own measured speed.")
