"""diffusers' schedulers take the same path as our samplers, on a fixed network and with the same noise."""

import numpy as np
import pytest
import torch

from ditscale import randomness
from ditscale.diffusion.ddpm import Ddpm
from ditscale.diffusion.ddpm_options import ddpm_levels
from ditscale.diffusion.edm import Edm
from ditscale.diffusion.flow import Flow
from ditscale.diffusion.samplers import sample

SHAPE, LABELS, SEED, POSITIONS = (2, 3, 4, 4), torch.zeros(2), 7, torch.tensor([3, 11])


def network(x, t, y):
    """Some smooth function of image and time."""
    return torch.sin(1.3 * x + (t / 1000)[:, None, None, None]) + 0.2 * x


def with_variance(x, t, y):
    return torch.cat([network(x, t, y), torch.cos(x)], dim=1)


def start():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def step_noise(step):
    name = f"sampling noise of step {step}"
    return randomness.draw(SEED, POSITIONS, {name: randomness.Normal(SHAPE[1:])})[name]


def times(level):
    return torch.full((2,), float(level))


def test_ddpm(monkeypatch):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    steps = iter(range(100))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, **k: step_noise(next(steps)))
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    scheduler.set_timesteps(timesteps=[int(level) for level in ddpm_levels(25)[:-1]])
    x = start()
    for t in scheduler.timesteps:
        x = scheduler.step(with_variance(x, times(t), None), int(t), x).prev_sample
    ours = sample(with_variance, Ddpm(), start(), LABELS, sampler="ddpm", steps=25, seed=SEED, positions=POSITIONS)
    assert torch.allclose(ours, x, rtol=1e-4, atol=1e-4 * x.abs().max())


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim(eta):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(20)
    x = start()
    for i, t in enumerate(scheduler.timesteps):
        noise = step_noise(i) if eta else None
        x = scheduler.step(network(x, times(t), None), int(t), x, eta=eta, variance_noise=noise).prev_sample
    ours = sample(with_variance, Ddpm(), start(), LABELS, sampler="ddim", steps=20, eta=eta, respacing="ddim", seed=SEED,
                  positions=POSITIONS)
    assert torch.allclose(ours, x, rtol=1e-4, atol=1e-4 * x.abs().max())


def test_flow_euler():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=1 - np.arange(20) / 20)                            # diffusers 0.30 takes no list
    x = start()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, times(t), None), t, x).prev_sample
    ours = sample(network, Flow(), start(), LABELS, sampler="euler", steps=20)
    assert torch.allclose(ours, x, rtol=1e-5, atol=1e-5 * x.abs().max())


@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_edm_euler(churn, monkeypatch):
    from diffusers import EDMEulerScheduler
    from diffusers.schedulers import scheduling_edm_euler

    steps = iter(range(100))
    monkeypatch.setattr(scheduling_edm_euler, "randn_tensor", lambda *a, **k: step_noise(next(steps)))
    edm, scheduler = Edm(), EDMEulerScheduler()
    scheduler.set_timesteps(20)
    x = 80.0 * start()
    for i, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        if churn:                                                              # theirs calls the network before it adds the noise
            raised = sigma * (1 + min(churn / 20, 2**0.5 - 1))
            noisy = x + step_noise(i) * (raised**2 - sigma**2).sqrt()
            output = network(*edm.model_inputs(noisy, raised.repeat(2)), None)
        else:
            output = network(scheduler.scale_model_input(x, t), (1000 * t).repeat(2), None)
        scheduler.is_scale_input_called = True
        x = scheduler.step(output, t, x, s_churn=churn).prev_sample
    ours = sample(network, edm, start(), LABELS, sampler="euler", steps=20, churn=churn, seed=SEED, positions=POSITIONS)
    assert torch.allclose(ours, x, rtol=1e-3, atol=1e-4 * x.abs().max())
