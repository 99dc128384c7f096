"""Flow matching (SiT, arXiv 2401.08740): ``x_t = a(t) x_0 + s(t) n`` for t in [0, 1], the velocity ``dx/dt`` as target.

Linear interpolant: a = 1 - t, s = t (SiT's best). Cosine (SiT's GVP): a = cos(pi t / 2), s = sin(pi t / 2), unit variance kept.
"""

import math

import torch
from torch import Tensor

from ditscale.diffusion.flow_options import FlowFacts, shifted
from ditscale.diffusion.formulation import normal_quantile, per_image, wide

HALF_PI = math.pi / 2
LEAST_T = 0.05                                                                 # JiT's, of what x-prediction divides by


class Flow(FlowFacts):
    """Squared error of the velocity, which the network outputs, or which follows from its clean image.

    With ``prediction`` x the network outputs x_0 (JiT, arXiv 2511.13720), and ``v = (s' x_t - d x_0) / s`` with d = a s' - s a'. Here s
    is taken at t of at least 0.05, in the loss and in sampling alike; for the linear interpolant the loss is
    ``((x_hat - x_0) / max(t, 0.05))^2``. Below that t a sampler's velocity is too small by the factor t / 0.05, as JiT's is.

    Args:
        interpolant: ``linear`` or ``cosine``.
        t_distribution: in training, ``uniform`` or ``logit_normal``: t = sigmoid(logit_mean + logit_std z) with z standard normal
            (Stable Diffusion 3, arXiv 2403.03206, eq. 19).
        time_scale: the network gets this times t. The embedder's sinusoids are made for 0..1000; SiT and REPA pass t itself.
        time_shift: of training levels, after their draw, and of sampling levels; see ``shifted``.
        prediction: ``velocity`` or ``x``.
    """

    name = "flow"
    cleanest, noisiest = 0.0, 1.0

    def __init__(self, interpolant: str = "linear", t_distribution: str = "uniform", logit_mean: float = 0.0,
                 logit_std: float = 1.0, time_scale: float = 1000.0, time_shift: float = 1.0, prediction: str = "velocity"):
        self.interpolant, self.t_distribution = interpolant, t_distribution
        self.logit_mean, self.logit_std, self.time_scale = logit_mean, logit_std, time_scale
        self.time_shift, self.predicts_clean = time_shift, prediction == "x"
        self.determinant = 1.0 if interpolant == "linear" else HALF_PI         # d, at every t

    def level(self, uniform: Tensor) -> Tensor:
        if self.t_distribution == "uniform":
            return shifted(uniform, self.time_shift)
        return shifted(torch.sigmoid(self.logit_mean + self.logit_std * normal_quantile(uniform)).float(), self.time_shift)

    def lowered(self, t: Tensor, by: Tensor) -> Tensor:
        return (t - by).clamp(min=0)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.interpolant == "linear":
            return 1 - t, t
        return torch.cos(HALF_PI * t), torch.sin(HALF_PI * t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """da/dt and ds/dt."""
        if self.interpolant == "linear":
            return -torch.ones_like(t), torch.ones_like(t)
        return -HALF_PI * torch.sin(HALF_PI * t), HALF_PI * torch.cos(HALF_PI * t)

    def divisor(self, t: Tensor) -> Tensor:
        """(B, 1, 1, 1): s at t of at least ``LEAST_T``."""
        return per_image(self.coefficients(t.clamp(min=LEAST_T))[1])

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.interpolant == "linear":
            return torch.lerp(clean, noise, per_image(t))
        signal, spread = self.coefficients(t)
        return per_image(signal) * clean + per_image(spread) * noise

    def model_inputs(self, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return noisy, self.time_scale * t

    def loss(self, output: Tensor, clean: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        if self.predicts_clean:
            return {"mse": (self.determinant / self.divisor(t) * (wide(output) - clean)).square()}
        if self.interpolant == "linear":
            return {"mse": (wide(output) - (noise - clean)).square()}
        signal_rate, spread_rate = self.rates(t)
        return {"mse": (wide(output) - (per_image(signal_rate) * clean + per_image(spread_rate) * noise)).square()}

    def predictions(self, output: Tensor, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Solves x = a x_0 + s n and v = a' x_0 + s' n; the determinant is 1 (linear) or pi / 2 (cosine)."""
        signal, spread, signal_rate, spread_rate = (per_image(c) for c in (*self.coefficients(t), *self.rates(t)))
        if self.predicts_clean:
            return wide(output), (noisy - signal * wide(output)) / self.divisor(t)
        velocity = wide(output)
        determinant = signal * spread_rate - spread * signal_rate
        return (spread_rate * noisy - spread * velocity) / determinant, (signal * velocity - signal_rate * noisy) / determinant

    def network_output(self, clean: Tensor, noise: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        if self.predicts_clean:
            return clean
        signal_rate, spread_rate = (per_image(rate) for rate in self.rates(t))
        return signal_rate * clean + spread_rate * noise

    def compared(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The velocity, also of a network that outputs the clean image."""
        return self.slope(output, noisy, t)

    def from_inputs(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        return x, time / self.time_scale

    def slope(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        if self.predicts_clean:
            return (per_image(self.rates(t)[1]) * noisy - self.determinant * wide(output)) / self.divisor(t)
        return wide(output)

    def scalars(self, t: float) -> tuple[float, float, float, float]:
        """a, s, da/dt and ds/dt at one level."""
        if self.interpolant == "linear":
            return 1 - t, t, -1.0, 1.0
        sine, cosine = math.sin(HALF_PI * t), math.cos(HALF_PI * t)
        return cosine, sine, -HALF_PI * sine, HALF_PI * cosine

    def signal_and_spread(self, level: float) -> tuple[float, float]:
        return self.scalars(level)[:2]

    def sampling_start(self, level: float) -> float:
        return 1.0

    def step_weights(self, here: float, there: float) -> tuple[float, float]:
        return 1.0, there - here

    def noise_share(self, level: float) -> float:
        """The level before the time shift."""
        return shifted(level, 1 / self.time_shift)
