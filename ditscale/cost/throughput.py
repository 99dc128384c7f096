"""How long a run will take: measured where the run has begun, else from its FLOPs and stated assumptions."""

from dataclasses import dataclass

from ditscale.config import RunConfig
from ditscale.cost.compute import FLOPS_PER_MAC, ComputeCard, compute_card
from ditscale.cost.hardware import Machine
from ditscale.diffusion.nfe import LEARNS_SIGMA, forwards, sampling_of
from ditscale.models.sizes import parse_model_name


@dataclass(frozen=True)
class Assumptions:
    """What an analytic forecast rests on; printed beneath it."""

    train_utilisation: float                                                   # of the device's peak, in forward and backward
    sample_utilisation: float
    step_overhead_seconds: float                                               # engine, optimizer, EMA, Python
    start_seconds: float                                                       # imports, launcher, first batch


ASSUMED = {"cpu": Assumptions(0.35, 0.35, 0.012, 30.0), "gpu": Assumptions(0.30, 0.30, 0.015, 40.0)}


def run_card(config: RunConfig) -> ComputeCard:
    """The compute card of a run's model."""
    return compute_card(parse_model_name(config.model.name), resolution=config.data.resolution, channels=config.data.channels,
                        classes=config.data.classes, class_dropout_prob=config.model.class_dropout_prob,
                        learn_sigma=config.formulation.name in LEARNS_SIGMA, block=config.model.block,
                        qk_norm=config.model.qk_norm)


def training_seconds(config: RunConfig, machine: Machine, images: int) -> float:
    """Forecast seconds to train on ``images`` more images."""
    assumed, ranks = ASSUMED[machine.kind], config.resources.accelerators_per_run
    flops = run_card(config).train_flops_per_image * images
    return flops / (assumed.train_utilisation * machine.peak_flops * ranks) \
        + images / config.train.global_batch * assumed.step_overhead_seconds


def evaluation_seconds(config: RunConfig, machine: Machine, checkpoints: int) -> float:
    """Forecast seconds to sample and score that many checkpoints."""
    if config.evaluation is None:
        return 0.0
    settings, assumed = config.evaluation, ASSUMED[machine.kind]
    passes = forwards(config.formulation, sampling_of(settings), settings.guidance_scale, settings.guidance_interval)
    flops = FLOPS_PER_MAC * run_card(config).macs * passes * settings.samples * checkpoints
    return flops / (assumed.sample_utilisation * machine.peak_flops * config.resources.accelerators_per_run)


def start_seconds(machine: Machine) -> float:
    """Forecast seconds from launch to the first step."""
    return ASSUMED[machine.kind].start_seconds
