"""The cost of a study before it runs: one row per run, measured if the run has started, else probed, else forecast."""

import csv
import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from ditscale.config import RunConfig
from ditscale.cost.communication import Sharding
from ditscale.cost.hardware import Machine
from ditscale.cost.runs import (
    evaluation_flops as flops_of_evaluation,
    inherited_flops,
    optimizer_flops,
    plain_tokens_per_parameter,
    run_card,
    run_memory_card,
    training_flops,
    validation_flops,
)
from ditscale.cost.throughput import ASSUMED, StepForecast, evaluation_seconds, start_seconds, step_forecast, utilization
from ditscale.data.manifest import manifest_path, unique_images
from ditscale.errors import UserError, count
from ditscale.rundir import DONE, read_lines
from ditscale.studies.plan.probe import Probe, shape_of
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.fit import USABLE, micro_batches
from ditscale.training.parent import start_images
from ditscale.training.schedule import due_images, validated_images
from ditscale.training.zero.strategy import sharding
from ditscale.writing import make_parents, writing

MEASURED, PROBED, ASSUMED_SPEED = "measured", "probed", "assumed"
STAGES = (1, 2, 3)                                                             # stage 0 is for fp32 and partitions nothing


@dataclass(frozen=True)
class PlanRow:
    """One run: its size, its compute, its needs per device, the remaining work and its duration. Those of a branch are its own, from ``start_images``
    on; the rest is its trunk's.

    ``zero_stage`` is the smallest that fits the device with ``micro_batch`` images per forward, ``memory_bytes`` the memory of a device
    then; both None if nothing fits or the device's memory is unknown. ``basis`` is the basis of the time: the run's own
    speed, a probe's, or assumptions.
    """

    run_id: str
    model: str
    state: str
    parameters: int
    tokens: int
    macs: int
    train_flops: int
    optimizer_flops: int                                                       # those of them that are the optimizer's matrix products
    evaluation_flops: int                                                      # of sampling, for all evaluations
    images: int
    tokens_per_parameter: float                                                # at the end, by a plain DiT's parameters
    images_seen: int
    ranks: int
    micro_batch: int | None
    zero_stage: int | None
    memory_bytes: int | None
    probed_memory_bytes: int | None                                            # per rank, with the run's own strategy
    images_per_second: float                                                   # in training; 0 where it is not known
    seconds_left: float
    basis: str
    step: StepForecast | None                                                  # forecast of the remaining steps; None: none remain
    strategy_stage: int                                                        # the forecast is for the strategy file's ZeRO stage
    phase: str | None
    recipe: str                                                                # runs of one recipe differ only in the seed
    settings: str                                                              # what the study sets and the run's id does not say
    runs_per_accelerator: int                                                  # that share the ranks' devices
    unique_images: int | None = None                                           # of the data, by its manifest; None: it is not here
    trunk: str = ""                                                            # of a branch: the run that it starts from
    start_images: int = 0                                                      # and the images seen there

    @property
    def epochs(self) -> float | None:
        """How often the run sees each image, at its end; None where ``unique_images`` is not known."""
        return self.images / self.unique_images if self.unique_images else None

    @property
    def accelerator_hours(self) -> float:
        """Accelerator-hours that remain."""
        return self.seconds_left * self.ranks / self.runs_per_accelerator / 3600


def plan_rows(runs: list[PlannedRun], machine: Machine, probes: dict[str, Probe] | None = None) -> list[PlanRow]:
    """A row for each run; ``probes`` by shape, see probe.py."""
    read, unique = functools.cache(sharding), functools.cache(unique_images)   # thousands of runs may share a strategy file and data
    return [_row(planned, machine, read, probes.get(shape_of(planned.config)) if probes else None, unique(manifest_path(planned.config.data.path)))
            for planned in runs]


def _row(planned: PlannedRun, machine: Machine, read: Callable[[str], Sharding], probe: Probe | None, unique: int | None) -> PlanRow:
    config, card, status = planned.config, run_card(planned.config), planned.run.status()
    start = start_images(config)
    ranks, images_seen = config.resources.accelerators_per_run, max(start, status["images_seen"])
    machine = machine.shared_by(config.resources.runs_per_accelerator)         # a forecast: no faster than one after the other
    left = config.train.images - images_seen
    fitted = fit(config, machine)
    sent = read(config.resources.deepspeed) if ranks > 1 else Sharding()
    settled = (fitted[0] or 1) if config.resources.micro_batch == "auto" else None
    step = step_forecast(config, machine, sent, images_seen, settled) if left else None
    basis, step_seconds = _step_seconds(planned, probe, step)
    training = step_seconds * left / config.train.global_batch
    measured = None
    if probe:
        measured = utilization(card.train_flops_per_image, config.train.global_batch / probe.step_seconds, ranks, machine.peak_flops)
    due, validated, seconds = due_images(config), validated_images(config), 0.0
    if status["state"] != DONE:
        waiting = sum(mark > images_seen for mark in due)
        losses = sum(mark > images_seen for mark in validated)
        seconds = start_seconds(machine, ranks) + evaluation_seconds(config, machine, waiting, measured, losses) + training
    evaluation_flops = flops_of_evaluation(config) * len(due) if due else 0
    if validated:
        evaluation_flops += validation_flops(config) * config.evaluation.validation.images * len(validated)
    return PlanRow(planned.run_id, config.model.name, status["state"], card.parameters, card.tokens, card.macs,
                   training_flops(config, config.train.images) - inherited_flops(config),
                   (config.train.images - start) // config.train.global_batch * optimizer_flops(config),
                   evaluation_flops, config.train.images,
                   plain_tokens_per_parameter(config, config.train.images), images_seen, ranks, *fitted,
                   probe.memory_bytes if probe else None, config.train.global_batch / step_seconds if step_seconds else 0.0, seconds, basis, step, sent.stage,
                   planned.phase, config.recipe(), planned.settings, config.resources.runs_per_accelerator, unique,
                   config.parent.run if config.parent else "", start)


def saved_by_branches(rows: list[PlanRow], runs: list[PlannedRun]) -> str:
    """What the runs' training takes with and without branches, in one line; "" without branches, or where the trunk of one is not among the runs, as
    its cost is then not either."""
    branches = [row for row in rows if row.trunk]
    if not branches or not {row.trunk for row in branches} <= {row.run_id for row in rows}:
        return ""
    whole = {planned.run_id: training_flops(planned.config, planned.config.train.images) for planned in runs}
    paid, without = (sum(values) for values in ((row.train_flops for row in rows), (whole[row.run_id] for row in rows)))
    return (f"Branches: {count(len(branches), 'run')} of {len(rows)} train only from where they leave their trunks: {paid:.3g} training FLOPs in all, "
            f"{without:.3g} if each began at 0: {1 - paid / without:.0%} saved.")


def _step_seconds(planned: PlannedRun, probe: Probe | None, step: StepForecast | None) -> tuple[str, float]:
    """The basis of a run's time (the first available of its own speed, a probe and the forecast), and its seconds per step."""
    metrics, batch = read_lines(planned.run.metrics, "images_seen", "seconds"), planned.config.train.global_batch
    if metrics:
        trained = metrics[-1]["images_seen"] - start_images(planned.config)
        return MEASURED, sum(line["seconds"] for line in metrics) / max(batch, trained) * batch
    if probe:
        return PROBED, probe.step_seconds
    return ASSUMED_SPEED, step.seconds if step else 0.0


def fit(config: RunConfig, machine: Machine) -> tuple[int | None, int | None, int | None]:
    """Micro batch, the smallest ZeRO stage that fits with it, and the bytes per device. ``auto`` is the largest at that stage."""
    usable = int(USABLE * machine.memory_bytes)
    sizes = micro_batches(config) if config.resources.micro_batch == "auto" else [config.micro_batch]
    for stage in STAGES:
        for micro_batch in sizes:
            needed = run_memory_card(config, stage=stage, offload=False, micro_batch=micro_batch).accelerator
            if needed <= usable:
                return micro_batch, stage, needed
    return None, None, None


def makespan(rows: list[PlanRow], slots: int) -> float:
    """Seconds until all runs end if ``slots`` run at once, longest first."""
    ends = [0.0] * slots
    for seconds in sorted((row.seconds_left for row in rows), reverse=True):
        ends[ends.index(min(ends))] += seconds
    return max(ends)


def write_rows(path, rows: list[PlanRow], form: str) -> None:
    """Writes the plan as ``csv`` or ``json``, one row per run.

    Raises:
        UserError: the file cannot be written.
    """
    values = [_flat(row) for row in rows]
    make_parents(path)
    with writing(f"--{form} {path}"), open(path, "w", newline="") as file:
        if form == "json":
            json.dump(values, file, indent=1)
        else:
            writer = csv.DictWriter(file, values[0])
            writer.writeheader()
            writer.writerows(values)


def _flat(row: PlanRow) -> dict:
    """A row's values; those of its step have separate names."""
    names = {"compute_seconds": "step_compute_seconds", "communication_seconds": "step_communication_seconds",
             "exposed_seconds": "step_exposed_seconds", "sent_bytes": "step_sent_bytes"}
    values = {**asdict(row), "epochs": row.epochs, "accelerator_hours": row.accelerator_hours}
    del values["step"]
    bound = row.step.roofline if row.step else None
    return values | {name: getattr(row.step, key, None) for key, name in names.items()} | {
        "step_bound_seconds": bound and bound.bound_seconds, "step_limit": bound and bound.limit}


def _peak(flops: float) -> str:
    return f"{flops / 1e12:,.0f} TFLOP/s" if flops >= 1e13 else f"{flops / 1e9:,.0f} GFLOP/s"


def assumption_line(machine: Machine, slots: int) -> str:
    """The basis of the forecast, in one sentence."""
    assumed = ASSUMED[machine.kind]
    share = f"{assumed.train_utilization:.0%} of peak"
    if assumed.bound_reached and machine.memory_bandwidth:
        share = f"{assumed.bound_reached:.0%} of a step's bound, the median of published loops (no measurement; docs/roofline.md)"
    alone = f" ({assumed.forked_seconds:.0f} s for runs of one rank)" if assumed.forked_seconds < assumed.start_seconds else ""
    return (f"Forecast for {machine.devices} x {machine.name} ({_peak(machine.peak_flops)} each), {slots} run{'s' * (slots > 1)} at a time: "
            f"{share}, {assumed.step_overhead_seconds * 1e3:.0f} ms per step outside the model, "
            f"{assumed.start_seconds:.0f} s to start{alone}; runs already started use their mean speed so far, "
            "probed shapes (p) the speed of 20 measured steps.")


def link_lines(machine: Machine) -> list[str]:
    """The assumptions behind the forecast of communication."""
    links, hides = machine.links, ASSUMED[machine.kind].hides
    if machine.kind == "cpu":
        return [f"Ranks of one host communicate over gloo at {links.node_bandwidth / 1e9:g} GB/s each, not overlapped with computation."]
    return [f"Nodes of {links.per_node}: {links.node_bandwidth / 1e9:g} GB/s per GPU within a node (one direction), "
            f"{links.network_bandwidth * 8e-9:g} Gb/s per GPU between nodes; {links.reached:.0%} of that is reached. NCCL's rings are flat and use "
            "all adapters of a node;",
            f"a hop takes {links.node_hop_seconds * 1e6:g} us within a node, {links.network_hop_seconds * 1e6:g} us between nodes. Sending overlaps only "
            f"with DeepSpeed's overlap_comm (on by default only at stage 3): full buckets,",
            f"with {hides:.0%} of the backward pass (stage 3: of all computation)."]


def excess(spec: Spec, rows: list[PlanRow]) -> str:
    """Which of the study's limits its plan exceeds, in words; "" if none. Only remaining cost counts."""
    if spec.limits is None:
        return ""
    hours = sum(row.accelerator_hours for row in rows)
    found = (("runs", len(rows), spec.limits.runs), ("accelerator_hours", hours, spec.limits.accelerator_hours),
             ("training FLOPs", sum(row.train_flops for row in rows), spec.limits.train_flops))
    return ", ".join(f"{name} {value:,.4g} of {limit:,.4g}" for name, value, limit in found if limit is not None and value > limit)


def check_limits(spec: Spec, rows: list[PlanRow]) -> None:
    """Raises UserError if the plan exceeds a limit."""
    if over := excess(spec, rows):
        raise UserError(f"{spec.name} exceeds its limits: {over}; narrow it with KEY=VALUE, raise limits in its file, or launch "
                        "with --over-limits")
