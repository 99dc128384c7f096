"""What every noise formulation offers, and the one place that makes one by name."""

from typing import Protocol

from torch import Tensor

from ditscale.config import FormulationConfig


class Formulation(Protocol):
    """Shapes: images (B, C, S, S); noise levels ``t`` (B,), larger is noisier; all arithmetic in fp32."""

    learn_sigma: bool                                                          # the model also outputs a variance

    def level(self, uniform: Tensor) -> Tensor:
        """Training noise levels (B,) from uniform draws (B,)."""

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noisy sample at level ``t`` on the trajectory that ``noise`` spans."""

    def model_inputs(self, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees: scaled image and time in 0..1000."""

    def loss(self, output: Tensor, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The weighted squared error of the raw network output, elementwise, (B, C, S, S)."""

    def slope(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """``dx/dt`` of the probability-flow ODE from the raw network output."""

    def sampling_levels(self, steps: int) -> Tensor:
        """``steps + 1`` levels from pure noise down to clean, float64."""


def make_formulation(config: FormulationConfig) -> Formulation:
    """The formulation that a config names."""
    from ditscale.diffusion.flow import Flow

    return {"flow": Flow}[config.name]()
