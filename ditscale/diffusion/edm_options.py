"""EDM's options, and the levels that its samplers visit."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from ditscale.diffusion.options import Facts, FormulationOptions
from ditscale.errors import UserError


def edm_levels(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """EDM (arXiv 2206.00364) eq. 5: ``steps`` levels, evenly spaced in sigma^(1/rho), then 0."""
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [(high + i / max(steps - 1, 1) * (low - high)) ** rho for i in range(steps)] + [0.0]


class EdmFacts(Facts):
    sampling_options = ("churn", "churn_interval", "churn_noise")
    passport_options = ("sigma_min", "sigma_max", "rho")
    highest_level, level_unit = float("inf"), "sigma, above 0"
    if TYPE_CHECKING:
        sigma_min: float
        sigma_max: float
        rho: float

    def sampling_levels(self, sampling) -> list[float]:
        return edm_levels(sampling.steps, self.sigma_min, self.sigma_max, self.rho)


class EdmConfig(EdmFacts, FormulationOptions):
    name: Literal["edm"]
    path = "ditscale.diffusion.edm:Edm"
    p_mean: float = -1.2                                                       # of ln sigma in training
    p_std: float = Field(1.2, gt=0)
    sigma_data: float = Field(0.5, gt=0)                                       # the data's standard deviation
    sigma_min: float = Field(0.002, gt=0)                                      # of sampling
    sigma_max: float = Field(80.0, gt=0)
    rho: float = Field(7.0, ge=1)
    c_noise_scale: float = Field(1000.0, gt=0)                                 # network time = this x ln(sigma) / 4; EDM: 1

    @model_validator(mode="after")
    def _check_range(self):
        if self.sigma_min >= self.sigma_max:
            raise UserError(f"formulation.sigma_min {self.sigma_min} must be below formulation.sigma_max {self.sigma_max}; "
                            f"EDM uses 0.002 and 80")
        return self
