"""Samplers: from noise to a clean image, by name.

- ``euler``, ``heun``: the probability-flow ODE of any formulation. Heun is EDM's second-order scheme (arXiv 2206.00364, Alg. 2,
  with churn for edm), a plain Euler step at the end (on flow optionally a full Heun step, ``heun_last``). On ddpm the ODE is DDIM's, so
  ``euler`` is ``ddim`` without noise.
- ``ddpm``: ancestral sampling with the learned variance (arXiv 2102.09672), unclipped. ``ddim``: arXiv 2010.02502, with eta.
- ``sde``: Euler-Maruyama on flow's reverse SDE (SiT, arXiv 2401.08740).

Coefficients are Python floats, computed in float64 before the first step; a step never waits for the device. Noise during sampling
is a function of only (seed, image position, step).
"""

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ditscale import randomness
from ditscale.diffusion.formulation import Formulation, wide
from ditscale.diffusion.nfe import Sampling, churned
from ditscale.errors import UserError

if TYPE_CHECKING:                                                              # the formulations that ``Sampling.check`` allows for their samplers
    from ditscale.diffusion.ddpm import Ddpm
    from ditscale.diffusion.flow import Flow

KL_GUARD = 0.1                                                                 # keeps w finite at t = 1, where the signal is 0


@torch.inference_mode()
def sample(model, formulation: Formulation, noise: Tensor, labels: Tensor, *, sampler: str, steps: int, seed: int | None = None,
           positions: Tensor | None = None, **options) -> Tensor:
    """Images (B, C, S, S) in fp32 from standard normal ``noise`` of that shape.

    Args:
        model: called as ``model(x, t, y)``; wrap it in ``Guided`` for guidance.
        sampler, steps, options: the fields of ``Sampling``.
        seed, positions: for samplers that draw noise during sampling; positions (B,) int64.

    Raises:
        UserError: sampler or option do not work with the formulation, or a stochastic sampler has no seed.
    """
    sampling = Sampling(sampler, steps, **options)
    sampling.check(formulation)
    if sampling.stochastic and (seed is None or positions is None):
        raise UserError(f"sampler '{sampler}' draws noise during sampling: it needs seed and positions")
    fresh = StepNoise(seed, positions, noise.shape[1:], steps) if sampling.stochastic else None
    levels = formulation.sampling_levels(sampling)
    start = formulation.sampling_start(levels[0]) * noise
    run = {"ddpm": _ancestral, "ddim": _ddim, "sde": _sde}.get(sampler, _ode)
    return run(Network(model, formulation, labels), start, levels, sampling, fresh)


class Network:
    """The model at a level given as a plain number: raw output, or slope of the probability-flow ODE."""

    def __init__(self, model, formulation: Formulation, labels: Tensor):
        self.formulation, self.labels = formulation, labels
        self.at = model.at if hasattr(model, "at") else lambda level: model

    def output(self, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        t = x.new_full((len(x),), level)
        return self.at(level)(*self.formulation.model_inputs(x, t), self.labels), t

    def slope(self, x: Tensor, level: float) -> Tensor:
        output, t = self.output(x, level)
        return self.formulation.slope(output, x, t)


class StepNoise:
    """Standard normal noise of each step, (B, C, S, S). On a GPU, where the generator's many small kernels are limited by
    launches, the noise of several steps is drawn at once; each step has its own stream, so this changes no value."""

    def __init__(self, seed: int, positions: Tensor, shape, steps: int):
        self.seed, self.positions, self.shape, self.steps = seed, positions, tuple(shape), steps
        self.at_once = 1 if positions.device.type == "cpu" else 8
        self.drawn: dict[str, Tensor] = {}

    def at(self, step: int) -> Tensor:
        name = f"sampling noise of step {step}"
        if name not in self.drawn:
            ahead = range(step, min(step + self.at_once, self.steps))
            self.drawn = randomness.draw(self.seed, self.positions,
                                         {f"sampling noise of step {i}": randomness.Normal(self.shape) for i in ahead})
        return self.drawn[name]


def _ode(network: Network, x: Tensor, levels: list[float], sampling: Sampling, fresh: StepNoise | None) -> Tensor:
    weights, last = network.formulation.step_weights, len(levels) - 2
    for i, there in enumerate(levels[1:]):
        here = churned(levels[i], sampling)
        if here > levels[i]:
            x = x + (sampling.churn_noise * math.sqrt(here**2 - levels[i]**2)) * fresh.at(i)
        keep, move = weights(here, there)
        first = network.slope(x, here)
        kept = x if keep == 1 else keep * x
        ahead = kept + move * first
        if sampling.sampler == "heun" and (i < last or sampling.heun_last == "heun"):
            ahead = kept + move * 0.5 * (first + network.slope(ahead, there))
        x = ahead
    return x


def _ancestral(network: Network, x: Tensor, levels: list[float], sampling: Sampling, fresh: StepNoise) -> Tensor:
    """Each step draws from N(mean, exp(log variance)); the mean is the posterior's (DDPM eq. 7) at the predicted clean image."""
    chain = cast("Ddpm", network.formulation).respaced(levels)
    # x_0 = (x - spread eps) / signal, inserted into the posterior's mean: two coefficients per step
    of_noise = (-chain.clean_weight * chain.spread / chain.signal).tolist()
    of_noisy = (chain.clean_weight / chain.signal + chain.noisy_weight).tolist()
    # log standard deviation = (log_posterior + (v + 1) / 2 (log_beta - log_posterior)) / 2
    of_v = ((chain.log_beta - chain.log_posterior) / 4).tolist()
    middle = ((chain.log_beta + chain.log_posterior) / 4).tolist()
    channels, last = x.shape[1], len(levels) - 2
    for i, level in enumerate(levels[:-1]):
        output = wide(network.output(x, level)[0])
        x = of_noisy[i] * x + of_noise[i] * output[:, :channels]
        if i < last:                                                           # the step to clean adds no noise
            x = x.addcmul_((of_v[i] * output[:, channels:]).add_(middle[i]).exp_(), fresh.at(i))
    return x


def _ddim(network: Network, x: Tensor, levels: list[float], sampling: Sampling, fresh: StepNoise | None) -> Tensor:
    """DDIM eqs. 12 and 16: toward the predicted clean image, with eta times the posterior's standard deviation as noise."""
    places = [network.formulation.signal_and_spread(level) for level in levels]
    for i, ((signal, spread), (next_signal, next_spread)) in enumerate(zip(places[:-1], places[1:])):
        fresh_std = sampling.eta * next_spread / spread * math.sqrt(max(0.0, 1 - (signal / next_signal) ** 2))
        keep = next_signal / signal
        move = math.sqrt(max(0.0, next_spread**2 - fresh_std**2)) - keep * spread
        x = keep * x + move * network.slope(x, levels[i])
        if fresh_std > 0:
            x = x.add_(fresh_std * fresh.at(i))
    return x


def _sde(network: Network, x: Tensor, levels: list[float], sampling: Sampling, fresh: StepNoise) -> Tensor:
    """``dx = (v - w s / 2) dt + sqrt(w) dW`` backwards in time, with s the score; its marginals are the ODE's for any w(t) >= 0.

    The score is singular at t = 0, so one last step without noise leads from ``sde_last_step`` to clean: along the ``velocity``,
    along the drift with its score (``mean``), or to the clean image predicted there (``tweedie``: the posterior mean).
    """
    flow, last = cast("Flow", network.formulation), len(levels) - 2
    for i, (here, there) in enumerate(zip(levels[:-1], levels[1:])):
        velocity = network.slope(x, here)
        if i == last and sampling.sde_last == "velocity":
            return x + (there - here) * velocity
        signal, spread, signal_rate, spread_rate = flow.scalars(here)
        w = 2 * sampling.sde_norm * DIFFUSIONS[sampling.sde_diffusion](here, signal, spread, signal_rate, spread_rate)
        # score = -n / spread with n = (signal v - signal_rate x) / determinant
        determinant = signal * spread_rate - spread * signal_rate
        of_velocity, of_noisy = -signal / (determinant * spread), signal_rate / (determinant * spread)
        back = here - there
        if i == last and sampling.sde_last == "tweedie":
            return (spread_rate * x - spread * velocity) / determinant
        x = (1 + back * w / 2 * of_noisy) * x + back * (w / 2 * of_velocity - 1) * velocity
        if i == last:
            return x
        x = x.add_(math.sqrt(w * back) * fresh.at(i))
    return x


# w(t) of SiT at sde_norm 0.5: the noise level; a bump that is 0 at both ends; twice the rate given by the KL bound,
# kept finite. SiT's code steps with D = norm x form and sqrt(2 D): at its default norm of 1 it uses twice these.
DIFFUSIONS = {
    "sigma": lambda t, signal, spread, signal_rate, spread_rate: spread,
    "sin2": lambda t, signal, spread, signal_rate, spread_rate: math.sin(math.pi * t) ** 2,
    "kl": lambda t, signal, spread, signal_rate, spread_rate:
        2 * spread * (spread_rate - signal_rate * spread / (signal + KL_GUARD)),
}
