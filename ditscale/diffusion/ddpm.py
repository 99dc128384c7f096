"""DiT's diffusion: DDPM (arXiv 2006.11239) with iDDPM's learned variance (arXiv 2102.09672).

``x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) n`` with ab_t the running product of 1 - beta_t, over 1000 timesteps t = 0..999. The
network outputs the noise and, in a second set of channels, v in about [-1, 1], which interpolates the log variance of a step between
the posterior's and beta's (iDDPM eq. 15).
"""

import math

import numpy as np
import torch
from torch import Tensor

from ditscale.diffusion.ddpm_options import CLEAN, TRAIN_STEPS, DdpmFacts
from ditscale.diffusion.formulation import per_image, wide
from ditscale.randomness import whole

NATS_PER_BIT = math.log(2.0)


def make_betas(schedule: str) -> np.ndarray:
    """(1000,) float64. ``linear``: 1e-4 to 2e-2 (DDPM). ``cosine``: iDDPM eq. 17, beta at most 0.999."""
    if schedule == "linear":
        return np.linspace(1e-4, 2e-2, TRAIN_STEPS)
    share = np.arange(TRAIN_STEPS + 1) / TRAIN_STEPS
    signal = np.cos((share + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - signal[1:] / signal[:-1], 0.999)


class Chain:
    """The quantities of a chain of noising steps, (N,) float64, from its ab: the full chain or a respaced one.

    ``q(x_{t-1} | x_t, x_0)`` has mean ``clean_weight x_0 + noisy_weight x_t`` and variance ``exp(log_posterior)`` (DDPM eq. 7).
    The first posterior variance is 0 and takes its successor's logarithm, as in iDDPM.
    """

    def __init__(self, signal_squared: np.ndarray):
        before = np.append(1.0, signal_squared[:-1])
        beta = 1 - signal_squared / before
        posterior = beta * (1 - before) / (1 - signal_squared)
        self.signal, self.spread = np.sqrt(signal_squared), np.sqrt(1 - signal_squared)
        self.clean_weight = beta * np.sqrt(before) / (1 - signal_squared)
        self.noisy_weight = (1 - before) * np.sqrt(1 - beta) / (1 - signal_squared)
        self.log_beta = np.log(beta)
        self.log_posterior = np.log(np.append(posterior[1:2] if len(beta) > 1 else beta, posterior[1:]))


class Ddpm(DdpmFacts):
    """Noise prediction with learned variance: loss = MSE + variational term, the latter in bits per dimension, weight 1, with the
    mean detached (it trains only the variance). This is the released DiT's weighting, without a factor T / 1000.

    Levels are whole timesteps, int64 in training, whole-valued floats in sampling; ``CLEAN`` (-1) is no noise.

    Args:
        schedule: ``linear`` or ``cosine``.
        min_snr_gamma: weight only the MSE by min(SNR, gamma) / SNR (arXiv 2303.09556; MDTv2 uses 5).
    """

    name = "ddpm"
    cleanest, noisiest = 0.0, TRAIN_STEPS - 1.0                                # timestep 0 has a little noise

    def __init__(self, schedule: str = "linear", min_snr_gamma: float | None = None):
        self.min_snr_gamma = min_snr_gamma
        self.signal_squared = np.cumprod(1 - make_betas(schedule))             # ab
        self.chain = Chain(self.signal_squared)
        self._tables: dict[tuple, Tensor] = {}

    def level(self, uniform: Tensor) -> Tensor:
        return whole(uniform, TRAIN_STEPS)

    def lowered(self, t: Tensor, by: Tensor) -> Tensor:
        return (t - whole(by, TRAIN_STEPS)).clamp(min=0)

    def at(self, name: str, t: Tensor) -> Tensor:
        """A quantity of the full chain at timesteps t (B,), (B, 1, 1, 1) fp32; the table is moved to the device once."""
        key = name, t.device
        if key not in self._tables:
            self._tables[key] = torch.from_numpy(getattr(self.chain, name)).float().to(t.device)
        return per_image(self._tables[key][t])

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Also at ``CLEAN``."""
        t, clean = t.long(), t < 0
        signal, spread = (self.at(name, t.clamp(min=0)).flatten() for name in ("signal", "spread"))
        return signal.masked_fill(clean, 1.0), spread.masked_fill(clean, 0.0)

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        signal, spread = self.coefficients(t)
        return per_image(signal) * clean + per_image(spread) * noise

    def model_inputs(self, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, t if t.is_floating_point() else t.float()

    def loss(self, output: Tensor, clean: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        predicted, v = wide(output).chunk(2, dim=1)
        squared = (predicted - noise).square()
        if self.min_snr_gamma is not None:
            snr = (self.at("signal", t) / self.at("spread", t)).square()
            squared = squared * (self.min_snr_gamma / snr).clamp(max=1.0)
        return {"mse": squared, "vb": self.variational_bits(predicted.detach(), v, clean, noise, t)}

    def variational_bits(self, predicted: Tensor, v: Tensor, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """One term of the variational bound (iDDPM eqs. 4 to 6), elementwise, in bits: the divergence of the model's step from
        the posterior, and at t = 0 the negative log likelihood of the 8-bit value (data in [-1, 1]).

        Both means share x_t, so they differ by ``clean_weight`` times the difference of the clean images, which is the noises'
        difference scaled: no cancellation of large terms.
        """
        log_posterior, log_beta = self.at("log_posterior", t), self.at("log_beta", t)
        log_variance = torch.lerp(log_posterior, log_beta, (v + 1) / 2)
        away = self.at("clean_weight", t) * (self.at("spread", t) / self.at("signal", t)) * (noise - predicted)
        gap = log_posterior - log_variance
        divergence = 0.5 * (gap.exp() - 1 - gap + away.square() * torch.exp(-log_variance))
        first = t == 0
        if first.device.type == "cpu" and not first.any():                              # on a GPU this check would wait for the device
            return divergence / NATS_PER_BIT
        # At t = 0 the posterior's mean is x_0 itself (clean_weight 1, noisy_weight 0), so the model's is x_0 + away.
        return torch.where(per_image(first), -eight_bit_log_likelihood(clean, clean + away, 0.5 * log_variance), divergence) \
            / NATS_PER_BIT

    def predictions(self, output: Tensor, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        noise = self.slope(output, noisy, t)
        signal, spread = self.coefficients(t)
        return (noisy - per_image(spread) * noise) / per_image(signal), noise

    def network_output(self, clean: Tensor, noise: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """With the posterior's variance."""
        return torch.cat([noise, -torch.ones_like(noise)], dim=1)

    def compared(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        return output

    def from_inputs(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return x, time

    def slope(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The noise: of the ODE in x / sqrt(ab) over sqrt(1 - ab) / sqrt(ab) it is the slope (DDIM, arXiv 2010.02502, eq. 14)."""
        return wide(output[:, :noisy.shape[1]])

    def sampling_start(self, level: float) -> float:
        return 1.0

    def signal_and_spread(self, level: float) -> tuple[float, float]:
        """sqrt(ab) and sqrt(1 - ab) of one level, in float64."""
        return (1.0, 0.0) if level == CLEAN else (float(self.chain.signal[int(level)]), float(self.chain.spread[int(level)]))

    def step_weights(self, here: float, there: float) -> tuple[float, float]:
        """An Euler step of that ODE in terms of x: ``x' = keep x + move n``. This is the DDIM step without noise."""
        (signal, spread), (next_signal, next_spread) = self.signal_and_spread(here), self.signal_and_spread(there)
        return next_signal / signal, next_spread - next_signal / signal * spread

    def respaced(self, levels: list[float]) -> Chain:
        """The chain over only these levels (from noise to ``CLEAN``), with its quantities in sampling order."""
        chain = Chain(self.signal_squared[[int(level) for level in reversed(levels[:-1])]])
        for name, values in vars(chain).items():
            setattr(chain, name, values[::-1])
        return chain

    def noise_share(self, level: float) -> float:
        return level / TRAIN_STEPS


def eight_bit_log_likelihood(values: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """ln of the normal probability within half a gray level (1/255) of each value in [-1, 1]; the end values include their tails."""
    inverse = torch.exp(-log_std)
    upper = torch.special.ndtr((values - mean + 1 / 255) * inverse)
    lower = torch.special.ndtr((values - mean - 1 / 255) * inverse)
    mass = torch.where(values < -0.999, upper, torch.where(values > 0.999, 1 - lower, upper - lower))
    return mass.clamp(min=1e-12).log()
