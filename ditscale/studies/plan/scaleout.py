"""The scaling limit: the forecast speed of a study's runs on 8, 16, ... 512 accelerators."""

import math
from dataclasses import dataclass

from ditscale.config import RunConfig
from ditscale.cost.communication import Sharding
from ditscale.cost.hardware import Machine
from ditscale.cost.throughput import StepForecast, step_forecast
from ditscale.studies.plan.plan import fit
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.zero.strategy import sharding

RANKS = (8, 16, 32, 64, 128, 256, 512)
PAYS = 1.5                                                                     # the speedup that twice the accelerators must give


@dataclass(frozen=True)
class ScalingPoint:
    """A run on a number of accelerators, with the largest micro batch that fits."""

    ranks: int
    micro_batch: int
    images_per_second: float
    step: StepForecast


@dataclass(frozen=True)
class ScalingCurve:
    """One shape of run over numbers of accelerators; ``points`` omit numbers that do not divide the batch or on which nothing fits."""

    name: str
    runs: int                                                                  # number of runs with this shape
    global_batch: int
    stage: int
    points: list[ScalingPoint]

    @property
    def pays_to(self) -> int | None:
        """The largest number of accelerators up to which each doubling gives at least ``PAYS`` times the speed."""
        best = None
        for before, point in zip([None, *self.points], self.points):
            if before and point.images_per_second < PAYS ** math.log2(point.ranks / before.ranks) * before.images_per_second:
                break
            best = point.ranks
        return best


def scaling_curves(runs: list[PlannedRun], machine: Machine) -> list[ScalingCurve]:
    """A curve for each shape of run: runs that differ only in seed or learning rate have one shape."""
    shapes: dict[tuple, list[RunConfig]] = {}
    for planned in runs:
        config = planned.config
        key = (config.model, config.data.resolution, config.objective.model_dump_json(), config.train.global_batch, config.train.precision,
               config.resources, config.formulation.name)
        shapes.setdefault(key, []).append(config)
    return [_curve(configs, machine) for configs in shapes.values()]


def _curve(configs: list[RunConfig], machine: Machine) -> ScalingCurve:
    config, sent = configs[0], sharding(configs[0].resources.deepspeed)
    points = [_point(config, ranks, machine, sent) for ranks in RANKS if config.train.global_batch % ranks == 0]
    return ScalingCurve(f"{config.model.name} {config.objective.label}", len(configs), config.train.global_batch, sent.stage,
                 [point for point in points if point])


def _point(config: RunConfig, ranks: int, machine: Machine, sent: Sharding) -> ScalingPoint | None:
    resources = config.resources.model_copy(update={"accelerators_per_run": ranks, "micro_batch": "auto"})
    spread = config.model_copy(update={"resources": resources})
    micro_batch = fit(spread, machine)[0]
    if micro_batch is None:
        return None
    step = step_forecast(spread, machine, sent, micro_batch=micro_batch)
    return ScalingPoint(ranks, micro_batch, config.train.global_batch / step.seconds, step)
