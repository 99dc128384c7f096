"""DDPM's options, and the timesteps that its samplers visit."""

import functools
import math
from typing import Literal

from pydantic import Field

from ditscale.diffusion.options import Facts, FormulationOptions
from ditscale.errors import UserError

TRAIN_STEPS = 1000                                                             # the chain, as in DiT
CLEAN = -1.0                                                                   # the level below timestep 0: no noise at all


class DdpmFacts(Facts):
    learn_sigma = True
    samplers = ("ddpm", "ddim", "heun", "euler")
    sampling_options = ("respacing", "timesteps")
    highest_level, level_unit = TRAIN_STEPS, f"timesteps, from 0 to {TRAIN_STEPS}"

    def sampling_levels(self, sampling) -> list[float]:
        return list(_kept_levels(sampling.steps, sampling.respacing, sampling.timesteps))


class DdpmConfig(DdpmFacts, FormulationOptions):
    name: Literal["ddpm"]
    path = "ditscale.diffusion.ddpm:Ddpm"
    schedule: Literal["linear", "cosine"] = "linear"                           # DiT: linear betas, 1e-4 to 2e-2
    min_snr_gamma: float | None = Field(None, gt=0)                            # weight the MSE by min(SNR, gamma) / SNR; MDTv2: 5

    def check_sampling(self, sampling) -> None:
        self.sampling_levels(sampling)


def ddpm_levels(steps: int, respacing="even", timesteps=None) -> list[float]:
    """``steps`` of the 1000 training timesteps, descending, then ``CLEAN``.

    Args:
        respacing: ``even`` (iDDPM, arXiv 2102.09672: includes both ends), ``ddim`` (an integer stride from 0), or a list of counts,
            one per equal section of the chain, starting at the clean end.
        timesteps: instead, the timesteps themselves, in any order.
    """
    if timesteps is not None:
        chosen = list(timesteps)
    elif respacing == "even":
        chosen = _section(0, TRAIN_STEPS, steps)
    elif respacing == "ddim":
        chosen = _whole_stride(steps)
    else:
        chosen = _sections(respacing)
    if len(set(chosen)) != len(chosen) or not all(0 <= step < TRAIN_STEPS for step in chosen):
        raise UserError(f"ddpm timesteps {chosen} must be different integers from 0 to {TRAIN_STEPS - 1}")
    if len(chosen) != steps:
        raise UserError(f"{len(chosen)} ddpm timesteps are chosen for {steps} sampling steps; "
                        f"evaluation.sampling_steps={len(chosen)} would fit")
    return [float(step) for step in sorted(chosen, reverse=True)] + [CLEAN]


_kept_levels = functools.lru_cache(maxsize=64)(ddpm_levels)                  # all runs of a study use the same levels


def _section(start: int, size: int, count: int) -> list[int]:
    """``count`` timesteps over ``size`` from ``start``, including first and last."""
    if count > size:
        raise UserError(f"{_too_many(count)}; {size} is the most" if size == TRAIN_STEPS else
                        f"respacing asks for {count} timesteps of a section of {size}; {size} is the most")
    stride = (size - 1) / (count - 1) if count > 1 else 1
    place, chosen = 0.0, []
    for _ in range(count):                                                     # a sum, as published: a product would round differently
        chosen.append(start + round(place))
        place += stride
    return chosen


def _sections(counts) -> list[int]:
    """iDDPM's list: the chain in as many equal sections (the first ones longer by one), each with its own count."""
    if not counts or min(counts) < 1:
        raise UserError(f"respacing {list(counts)} must be a list of counts above 0, one per section")
    size, longer = divmod(TRAIN_STEPS, len(counts))
    chosen, start = [], 0
    for i, count in enumerate(counts):
        width = size + (i < longer)
        chosen += _section(start, width, count)
        start += width
    return chosen


def _too_many(steps: int) -> str:
    return f"evaluation.sampling_steps {steps} is more than the {TRAIN_STEPS} training timesteps of ddpm"


def _whole_stride(steps: int) -> list[int]:
    """``0, s, 2 s, ...`` for the smallest integer stride s that gives this many."""
    if steps > TRAIN_STEPS:
        raise UserError(_too_many(steps))
    for stride in range(1, TRAIN_STEPS + 1):
        if math.ceil(TRAIN_STEPS / stride) == steps:
            return list(range(0, TRAIN_STEPS, stride))
    near = sorted({math.ceil(TRAIN_STEPS / stride) for stride in range(1, TRAIN_STEPS + 1)}, key=lambda n: abs(n - steps))[:2]
    raise UserError(f"respacing 'ddim' has no integer stride for {steps} sampling steps; {near[0]} or {near[1]} would work")
