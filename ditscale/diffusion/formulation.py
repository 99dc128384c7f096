"""The interface of a noise formulation, the function that makes one by name, and two shared helpers."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ditscale.diffusion.options import FormulationOptions


class Formulation(Protocol):
    """Shapes: images (B, C, S, S); noise levels ``t`` (B,), larger is noisier; all arithmetic in fp32 at least.

    Every formulation's noisy sample is ``signal(t) x_0 + spread(t) n``. Levels are flow's t in [0, 1], edm's sigma, ddpm's
    timestep. ``docs/formulations.md`` compares them.
    """

    name: str
    learn_sigma: ClassVar[bool]                                                # this and the next fields: Facts of options.py
    samplers: ClassVar[tuple[str, ...]]
    sampling_options: ClassVar[tuple[str, ...]]
    passport_options: ClassVar[tuple[str, ...]]
    later_options: ClassVar[dict[str, object]]
    cleanest: float                                                            # the lowest level given to the model
    noisiest: float                                                            # the level at which sampling starts

    def level(self, uniform: Tensor) -> Tensor:
        """Training noise levels (B,) from uniform draws (B,)."""

    def lowered(self, t: Tensor, by: Tensor) -> Tensor:
        """Levels (B,) with less noise than ``t``, by shares (B,) in [0, 1) of the range of levels; never below the lowest level."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``signal(t)`` and ``spread(t)``, (B,) each."""

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noisy sample at level ``t`` on the trajectory that ``noise`` spans."""

    def model_inputs(self, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The network's inputs: scaled image and time, in about 0..1000 except with the scales of a peer's weights."""

    def loss(self, output: Tensor, clean: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Weighted terms of the raw network output, each elementwise (B, C, S, S); the loss is the sum of their means."""

    def predictions(self, output: Tensor, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The clean image and the noise that correspond to the raw network output."""

    def network_output(self, clean: Tensor, noise: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The raw output for a clean image and a noise; the inverse of ``predictions``."""

    def compared(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """What the squared error of ``loss`` compares, up to a factor per level: the raw output, or what follows from it."""

    def from_inputs(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy sample and its levels (B,) from the network's inputs; the inverse of ``model_inputs``."""

    def slope(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The slope of the probability-flow ODE from the raw network output, over the variable that ``step_weights`` steps."""

    def sampling_levels(self, sampling) -> list[float]:
        """The levels that a ``Sampling`` visits, noisiest first; the last is clean."""

    def signal_and_spread(self, level: float) -> tuple[float, float]:
        """``signal`` and ``spread`` at one level, in float64."""

    def sampling_start(self, level: float) -> float:
        """The factor on standard normal noise to start sampling at a level."""

    def step_weights(self, here: float, there: float) -> tuple[float, float]:
        """(keep, move) of an Euler step of the probability-flow ODE between two levels: ``x' = keep x + move slope``."""

    def noise_share(self, level: float) -> float:
        """The position of a level between clean (0) and pure noise (1), in sampling time."""


def make_formulation(config: FormulationOptions) -> Formulation:
    """The formulation named by a config section, with its options."""
    return config.make()


def per_image(t: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return t[:, None, None, None]


def normal_quantile(uniform: Tensor) -> Tensor:
    """The inverse normal CDF of the middle of each draw's cell (draws are multiples of 2^-24): never 0, never 1.

    fp64 on a CPU. On an accelerator, where fp64 is slow or is not there, fp32 from the nearer end, as the distance to that is exact:
    within 1e-6 of it.
    """
    if uniform.device.type == "cpu":
        return torch.special.ndtri(uniform.double() + 2.0**-25)
    return quantile_in_fp32(uniform)


def quantile_in_fp32(uniform: Tensor) -> Tensor:
    """``normal_quantile`` of fp32 draws on an accelerator."""
    is_low = uniform < 0.5
    quantile = torch.special.ndtri(torch.where(is_low, uniform, 1 - uniform - 2.0**-24) + 2.0**-25)
    return torch.where(is_low, quantile, -quantile)


def wide(values: Tensor) -> Tensor:
    """fp32 at least: loss and sampler arithmetic never run in the model's half precision. fp64 stays."""
    return values if values.element_size() == 8 else values.float()
