"""How long a run will take: measured where the run has begun, else from its FLOPs and stated assumptions."""

from dataclasses import dataclass

from ditscale.config import RunConfig
from ditscale.cost.hardware import Machine
from ditscale.cost.runs import sampling_flops, training_flops


@dataclass(frozen=True)
class Assumptions:
    """What an analytic forecast rests on; printed beneath it."""

    train_utilisation: float                                                   # of the device's peak, in forward and backward
    sample_utilisation: float
    step_overhead_seconds: float                                               # engine, optimizer, EMA, Python
    start_seconds: float                                                       # imports, launcher, first batch


ASSUMED = {"cpu": Assumptions(0.35, 0.35, 0.012, 30.0), "gpu": Assumptions(0.30, 0.30, 0.015, 40.0)}


def training_seconds(config: RunConfig, machine: Machine, images_seen: int) -> float:
    """Forecast seconds to train from ``images_seen`` to the end."""
    assumed, ranks = ASSUMED[machine.kind], config.resources.accelerators_per_run
    flops = training_flops(config, config.train.images) - training_flops(config, images_seen)
    steps = (config.train.images - images_seen) / config.train.global_batch
    return flops / (assumed.train_utilisation * machine.peak_flops * ranks) \
        + steps * assumed.step_overhead_seconds


def evaluation_seconds(config: RunConfig, machine: Machine, checkpoints: int, utilisation: float | None = None) -> float:
    """Forecast seconds to sample and score that many checkpoints, at the utilisation that training was measured at if it was."""
    if config.evaluation is None:
        return 0.0
    assumed, flops = ASSUMED[machine.kind], sampling_flops(config) * config.evaluation.samples * checkpoints
    return flops / ((utilisation or assumed.sample_utilisation) * machine.peak_flops * config.resources.accelerators_per_run)


def start_seconds(machine: Machine) -> float:
    """Forecast seconds from launch to the first step."""
    return ASSUMED[machine.kind].start_seconds
