"""Forecasts how long a run will take: from its own speed once it has started, otherwise from its FLOPs and stated assumptions."""

from dataclasses import dataclass

from ditscale.config import RunConfig
from ditscale.cost.communication import Sharding, communication
from ditscale.cost.hardware import Machine
from ditscale.cost.roofline import Roofline, roofline
from ditscale.cost.runs import evaluation_flops, run_collectives, training_flops, validation_flops


@dataclass(frozen=True)
class Assumptions:
    """The assumptions of an analytic forecast; printed with it."""

    train_utilization: float                                                   # share of the device's peak in forward and backward
    sample_utilization: float
    step_overhead_seconds: float                                               # engine, optimizer, EMA, Python
    start_seconds: float                                                       # imports, launcher, first batch
    forked_seconds: float                                                      # the same of one rank, forked with all that in place
    hides: float = 0.7                                                         # share of computation that communication can overlap with
    bound_reached: float = 0.0                                                 # share of a step's roofline; 0: no roofline


# The median share of their bound that published loops reach on GPUs in half precision, ``benchmarks/peers.py``: none was measured here.
PEERS_REACH = 0.31
ASSUMED = {"cpu": Assumptions(0.35, 0.35, 0.012, 30.0, 2.0, 0.0),
           "gpu": Assumptions(0.30, 0.30, 0.015, 40.0, 40.0, bound_reached=PEERS_REACH)}
BACKWARD = 2 / 3                                                               # share of a step's computation


@dataclass(frozen=True)
class StepForecast:
    """One optimizer step, on average: seconds of computation (and overhead outside the model), seconds of collectives,
    the seconds of them that are not overlapped, and the bytes that a rank sends."""

    compute_seconds: float
    overhead_seconds: float
    communication_seconds: float
    exposed_seconds: float
    sent_bytes: float
    roofline: Roofline | None = None                                           # where the speed of the device's memory is known

    @property
    def seconds(self) -> float:
        return self.compute_seconds + self.overhead_seconds + self.exposed_seconds

    @property
    def efficiency(self) -> float:
        """The share of the step in which the model computes; 1 is linear scaling with the number of devices."""
        return self.compute_seconds / self.seconds


def utilization(train_flops_per_image: float, images_per_second: float, devices: int, peak_flops: float) -> float:
    """MFU: the training FLOPs that a model needs, divided by what the devices could compute at their dense peak in the same time."""
    return train_flops_per_image * images_per_second / (devices * peak_flops)


def step_forecast(config: RunConfig, machine: Machine, sharding: Sharding, images_seen: int = 0,
                  micro_batch: int | None = None) -> StepForecast:
    """The average step from ``images_seen`` to the end of an unfinished run; ``micro_batch`` replaces ``auto``."""
    assumed, ranks = ASSUMED[machine.kind], config.resources.accelerators_per_run
    flops = training_flops(config, config.train.images) - (training_flops(config, images_seen) if images_seen else 0)
    steps = (config.train.images - images_seen) / config.train.global_batch
    compute, bound = flops / steps / (assumed.train_utilization * machine.peak_flops * ranks), None
    if assumed.bound_reached and machine.memory_bandwidth:
        bound = roofline(config, machine, sharding, images_seen, micro_batch)
        compute = bound.device_seconds / assumed.bound_reached
    micro_steps = config.train.global_batch // ranks // (micro_batch or config.micro_batch)
    sent = communication(run_collectives(config, sharding, micro_steps, in_fp32=machine.kind == "cpu"), ranks, machine.links)
    window = {0: 0.0, 1: BACKWARD / micro_steps, 2: BACKWARD, 3: 1.0}[sharding.stage] * compute
    hidden = min(sent.hideable_seconds, assumed.hides * window)
    return StepForecast(compute, assumed.step_overhead_seconds, sent.seconds, sent.seconds - hidden, sent.bytes, bound)


def training_seconds(config: RunConfig, machine: Machine, images_seen: int, sharding: Sharding = Sharding()) -> float:
    """Forecast seconds to train from ``images_seen`` to the end, including communication that is not overlapped."""
    steps = (config.train.images - images_seen) / config.train.global_batch
    return steps * step_forecast(config, machine, sharding, images_seen).seconds if steps else 0.0


def evaluation_seconds(config: RunConfig, machine: Machine, checkpoints: int, utilization: float | None = None, validations: int = 0) -> float:
    """Forecast seconds to sample and score these numbers of checkpoints and validation losses, at the utilization measured in
    training, if it was measured."""
    if config.evaluation is None:
        return 0.0
    assumed, flops = ASSUMED[machine.kind], evaluation_flops(config) * checkpoints
    if config.evaluation.validation:
        flops += validation_flops(config) * config.evaluation.validation.images * validations
    return flops / ((utilization or assumed.sample_utilization) * machine.peak_flops * config.resources.accelerators_per_run)


def start_seconds(machine: Machine, ranks: int) -> float:
    """Forecast seconds from launch to the first step."""
    assumed = ASSUMED[machine.kind]
    return assumed.forked_seconds if ranks == 1 else assumed.start_seconds
