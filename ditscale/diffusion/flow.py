"""Flow matching on the straight line (SiT's best interpolant, arXiv 2401.08740): ``x_t = (1 - t) x_0 + t n``, t in [0, 1]."""

import torch
from torch import Tensor


def per_image(t: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return t[:, None, None, None]


class Flow:
    """Linear interpolant, velocity ``v = dx/dt = n - x_0`` as target, t uniform in training, plain squared error."""

    learn_sigma = False
    time_scale = 1000.0                                                        # the embedder's sinusoids are made for 0..1000

    def level(self, uniform: Tensor) -> Tensor:
        return uniform

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(clean, noise, per_image(t))

    def model_inputs(self, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, self.time_scale * t

    def loss(self, output: Tensor, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return (output.float() - (noise - clean)).square()

    def slope(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        return output.float()

    def sampling_levels(self, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)
