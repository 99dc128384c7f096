"""Flow matching's options, and the levels that its samplers visit."""

from fractions import Fraction
from typing import Literal

from pydantic import Field, model_validator

from ditscale.diffusion.options import Facts, FormulationOptions
from ditscale.errors import UserError


def flow_levels(steps: int, last: float = 0.0) -> list[float]:
    """``steps + 1`` evenly spaced levels from 1 to ``last``, each computed from the nearer end with one rounding, bit-equal to ``torch.linspace``."""
    width = Fraction((last - 1.0) / steps)
    return [float(1 + width * i if i < (steps + 1) // 2 else Fraction(last) - width * (steps - i)) for i in range(steps + 1)]


class FlowFacts(Facts):
    samplers = ("heun", "euler", "sde")
    sampling_options = ("heun_last",)
    highest_level, level_unit = 1.0, "t, from 0 to 1"

    def sampling_levels(self, sampling) -> list[float]:
        if sampling.sampler == "sde":
            return [*flow_levels(sampling.steps - 1, sampling.sde_last_step), 0.0] if sampling.steps > 1 else [1.0, 0.0]
        return flow_levels(sampling.steps)


class FlowConfig(FlowFacts, FormulationOptions):
    name: Literal["flow"]
    path = "ditscale.diffusion.flow:Flow"
    interpolant: Literal["linear", "cosine"] = "linear"                        # cosine: SiT's GVP
    t_distribution: Literal["uniform", "logit_normal"] = "uniform"             # in training
    logit_mean: float = 0.0                                                    # of ln(t / (1 - t)), logit_normal only
    logit_std: float = Field(1.0, gt=0)
    time_scale: float = Field(1000.0, gt=0)                                    # network time = this x t; SiT, REPA: 1

    @model_validator(mode="after")
    def _check_distribution(self):
        if self.t_distribution == "uniform" and (self.logit_mean, self.logit_std) != (0.0, 1.0):
            raise UserError("formulation.logit_mean and logit_std are for t_distribution logit_normal; it is uniform")
        return self
