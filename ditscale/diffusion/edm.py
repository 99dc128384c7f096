"""EDM (Karras et al., arXiv 2206.00364): ``x = x_0 + sigma n``, and a preconditioned denoiser
``D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)`` (Table 1), trained as in MaskDiT (arXiv 2306.09305).
"""

import torch
from torch import Tensor

from ditscale.diffusion.edm_options import EdmFacts
from ditscale.diffusion.formulation import normal_quantile, per_image, wide


class Edm(EdmFacts):
    """Levels are sigma. ``ln sigma ~ N(p_mean, p_std^2)`` in training; squared error of D, weighted by
    ``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2``, so that the network's own target has unit variance at every level.

    **c_noise.** The paper feeds ``ln(sigma) / 4`` to its network, which spans -1.6 to 1.1. DiT's sinusoids are made for 0 to 1000
    and hardly change over that range, so the network here gets ``c_noise_scale * ln(sigma) / 4``, with a scale of 1000 as in flow;
    the sinusoids also accept negative times. EDM and MaskDiT use scale 1.
    """

    name = "edm"

    def __init__(self, p_mean: float = -1.2, p_std: float = 1.2, sigma_data: float = 0.5, sigma_min: float = 0.002,
                 sigma_max: float = 80.0, rho: float = 7.0, c_noise_scale: float = 1000.0):
        self.p_mean, self.p_std, self.sigma_data = p_mean, p_std, sigma_data
        self.sigma_min, self.sigma_max, self.rho, self.c_noise_scale = sigma_min, sigma_max, rho, c_noise_scale

    @property
    def cleanest(self) -> float:
        return self.sigma_min

    @property
    def noisiest(self) -> float:
        return self.sigma_max

    def level(self, uniform: Tensor) -> Tensor:
        return torch.exp(self.p_mean + self.p_std * normal_quantile(uniform)).float()

    def lowered(self, t: Tensor, by: Tensor) -> Tensor:
        """The range is that of sigma / (1 + sigma), the t of flow's linear path with the same ratio of noise to signal."""
        share = (t / (1 + t) - by).clamp(min=self.sigma_min / (1 + self.sigma_min))
        return torch.minimum(share / (1 - share), t)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return clean + per_image(t) * noise

    def model_inputs(self, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        c_in = torch.rsqrt(t.square() + self.sigma_data**2)
        return per_image(c_in) * noisy, self.c_noise_scale * 0.25 * torch.log(t)

    def denoised(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """D from the raw network output F."""
        total = t.square() + self.sigma_data**2
        c_skip, c_out = self.sigma_data**2 / total, self.sigma_data * t * torch.rsqrt(total)
        return per_image(c_skip) * noisy + per_image(c_out) * wide(output)

    def loss(self, output: Tensor, clean: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        weight = (t.square() + self.sigma_data**2) / (t * self.sigma_data).square()
        return {"mse": per_image(weight) * (self.denoised(output, self.add_noise(clean, noise, t), t) - clean).square()}

    def predictions(self, output: Tensor, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        clean = self.denoised(output, noisy, t)
        return clean, (noisy - clean) / per_image(t)

    def network_output(self, clean: Tensor, noise: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        t = per_image(t)
        total = t**2 + self.sigma_data**2
        return (clean - self.sigma_data**2 / total * noisy) / (self.sigma_data * t / torch.sqrt(total))

    def compared(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        return output

    def from_inputs(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.exp(4 * time / self.c_noise_scale)
        return x * per_image(torch.sqrt(t**2 + self.sigma_data**2)), t

    def slope(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """``dx/dsigma = (x - D) / sigma`` (eq. 3), with D substituted, so both parts are of order 1 at every level."""
        total = t.square() + self.sigma_data**2
        keep, move = t / total, self.sigma_data * torch.rsqrt(total)
        return per_image(keep) * noisy - per_image(move) * wide(output)

    def sampling_start(self, level: float) -> float:
        return level

    def signal_and_spread(self, level: float) -> tuple[float, float]:
        return 1.0, level

    def step_weights(self, here: float, there: float) -> tuple[float, float]:
        return 1.0, there - here

    def noise_share(self, level: float) -> float:
        """The share of remaining sampling steps: 0 at sigma_min, 1 at sigma_max."""
        high, low, here = (value ** (1 / self.rho) for value in (self.sigma_max, self.sigma_min, level))
        return min(1.0, max(0.0, (here - low) / (high - low)))
