"""Flow matching's options, and the levels that its samplers visit."""

import math
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from ditscale.diffusion.options import Facts, FormulationOptions
from ditscale.errors import UserError

SHIFT_BASE = 4096                                                              # numbers of an input that ``auto`` does not shift


def shifted(t: Any, shift: float) -> Any:
    """``s t / (1 + (s - 1) t)`` for numbers or tensors t from 0 (clean) to 1 (noise): above 1, s moves levels toward noise; both ends stay. The
    inverse is the shift by 1 / s (Stable Diffusion 3, arXiv 2403.03206, eq. 23)."""
    return t if shift == 1 else shift * t / ((1 - t) + shift * t)


def flow_levels(steps: int, last: float = 0.0) -> list[float]:
    """``steps + 1`` evenly spaced levels from 1 to ``last``, each computed from the nearer end with one rounding, bit-equal to ``torch.linspace``."""
    width = Fraction((last - 1.0) / steps)
    return [float(1 + width * i if i < (steps + 1) // 2 else Fraction(last) - width * (steps - i)) for i in range(steps + 1)]


class FlowFacts(Facts):
    samplers = ("heun", "euler", "sde")
    sampling_options = ("heun_last",)
    passport_options = ("time_shift",)
    later_options = {"time_shift": 1.0, "prediction": "velocity"}
    highest_level, level_unit = 1.0, "t, from 0 to 1"

    def sampling_levels(self, sampling) -> list[float]:
        """Evenly spaced before the time shift; the last level of ``sde`` before the clean end is ``sde_last_step`` with any shift."""
        shift = getattr(self, "time_shift", 1.0)
        if sampling.sampler != "sde":
            return [shifted(t, shift) for t in flow_levels(sampling.steps)]
        if sampling.steps == 1:
            return [1.0, 0.0]
        last = sampling.sde_last_step
        return [*(shifted(t, shift) for t in flow_levels(sampling.steps - 1, shifted(last, 1 / shift))[:-1]), last, 0.0]


class FlowConfig(FlowFacts, FormulationOptions):
    name: Literal["flow"]
    path = "ditscale.diffusion.flow:Flow"
    interpolant: Literal["linear", "cosine"] = "linear"                        # cosine: SiT's GVP
    t_distribution: Literal["uniform", "logit_normal"] = "uniform"             # in training
    logit_mean: float = 0.0                                                    # of ln(t / (1 - t)), logit_normal only
    logit_std: float = Field(1.0, gt=0)
    time_scale: float = Field(1000.0, gt=0)                                    # network time = this x t; SiT, REPA: 1
    time_shift: Annotated[float, Field(gt=0)] | Literal["auto"] = 1.0          # of levels, see ``shifted``; auto: for_inputs
    prediction: Literal["velocity", "x"] = "velocity"                          # the network outputs; x: the clean image (JiT)

    def for_inputs(self, values: int) -> Self:
        """``time_shift`` auto is sqrt(values / 4096) (RAE, arXiv 2510.11690), after SD3's sqrt of the ratio of resolutions."""
        return self.model_copy(update={"time_shift": math.sqrt(values / SHIFT_BASE)}) if self.time_shift == "auto" else self

    @model_validator(mode="after")
    def _check_distribution(self):
        if self.t_distribution == "uniform" and (self.logit_mean, self.logit_std) != (0.0, 1.0):
            raise UserError("formulation.logit_mean and logit_std are for t_distribution logit_normal; it is uniform")
        return self
