"""Flow matching, samplers and guidance against closed forms."""

import math

import pytest
import torch

from ditscale.diffusion.flow import Flow
from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.nfe import evaluations
from ditscale.diffusion.samplers import sample


def test_noising_and_target_by_hand():
    flow, clean, noise = Flow(), torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    t = torch.tensor([0.0, 0.25, 1.0])
    noisy = flow.add_noise(clean, noise, t)
    for i, level in enumerate(t.tolist()):
        assert torch.allclose(noisy[i], (1 - level) * clean[i] + level * noise[i], atol=1e-6)
    assert flow.loss(noise - clean, clean, noise, t)["mse"].abs().max() == 0
    assert torch.allclose(flow.loss(torch.zeros_like(clean), clean, noise, t)["mse"], (noise - clean) ** 2)


def test_model_time_spans_the_embedders_range():
    assert Flow().model_inputs(torch.zeros(2, 1, 1, 1), torch.tensor([0.0, 1.0]))[1].tolist() == [0.0, 1000.0]
    assert Flow(time_scale=1.0).model_inputs(torch.zeros(2, 1, 1, 1), torch.tensor([0.0, 0.5]))[1].tolist() == [0.0, 0.5]


def gaussian_velocity(mean, std):
    """The exact velocity for data N(mean, std^2): E[n - x0 | x_t]."""
    def model(x, time, y):
        t = (time / 1000)[:, None, None, None]
        variance = (1 - t) ** 2 * std**2 + t**2
        centered = x - (1 - t) * mean
        return centered * (t - (1 - t) * std**2) / variance - mean
    return model


def terminal_error(sampler, steps, mean=0.7, std=0.4):
    """The ODE maps noise n to mean + std * n exactly."""
    noise = torch.linspace(-2, 2, 9).view(9, 1, 1, 1).double()
    drawn = sample(gaussian_velocity(mean, std), Flow64(), noise, torch.zeros(9), sampler=sampler, steps=steps)
    return (drawn - (mean + std * noise)).abs().max().item()


class Flow64(Flow):
    """Without the cast to fp32, so that the order of convergence is not hidden by rounding."""

    def slope(self, output, noisy, t):
        return output


@pytest.mark.parametrize("sampler, order", [("euler", 1), ("heun", 2)])
def test_order_of_convergence(sampler, order):
    errors = [terminal_error(sampler, steps) for steps in (32, 64, 128)]
    rates = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:])]
    assert all(rate == pytest.approx(order, abs=0.25) for rate in rates), rates


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_model_evaluations_are_as_stated(sampler, scale):
    rows = []

    def model(x, t, y):
        rows.append(len(x))
        return torch.zeros_like(x)

    guided = Guided(model, scale, null_class=10)
    sample(guided, Flow(), torch.randn(2, 1, 2, 2), torch.zeros(2, dtype=torch.long), sampler=sampler, steps=5)
    assert len(rows) == evaluations(sampler, 5)
    assert set(rows) == {2 * guided.passes}


def test_guidance_formula_and_null_class():
    def model(x, t, y):
        return x + y.float()[:, None, None, None]

    x, labels = torch.randn(3, 1, 2, 2), torch.tensor([0, 4, 9])
    out = Guided(model, 3.0, null_class=10)(x, torch.zeros(3), labels)
    cond, uncond = model(x, None, labels), model(x, None, torch.full_like(labels, 10))
    assert torch.allclose(out, uncond + 3.0 * (cond - uncond), atol=1e-5)


def test_cosine_interpolant_and_its_velocity():
    flow, (clean, noise) = Flow("cosine"), torch.randn(2, 4, 1, 3, 3, dtype=torch.float64)
    t = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64)
    noisy = flow.add_noise(clean, noise, t)
    for i, level in enumerate(t.tolist()):
        angle = math.pi * level / 2
        assert torch.allclose(noisy[i], math.cos(angle) * clean[i] + math.sin(angle) * noise[i], atol=1e-12)
    step = 1e-6
    velocity = (flow.add_noise(clean, noise, t + step) - flow.add_noise(clean, noise, t - step)) / (2 * step)
    assert flow.loss(velocity, clean, noise, t)["mse"].max() < 1e-12
    assert flow.scalars(0.3) == pytest.approx([c[1].item() for c in (*flow.coefficients(t), *flow.rates(t))])


def test_logit_normal_levels():
    """ln(t / (1 - t)) is normal with the given mean and standard deviation."""
    uniform = (torch.arange(2**14) * 2**10).float() * 2.0**-24
    levels = Flow(t_distribution="logit_normal", logit_mean=0.4, logit_std=0.7).level(uniform).double()
    logits = torch.log(levels / (1 - levels))
    assert logits.mean().item() == pytest.approx(0.4, abs=0.01) and logits.std().item() == pytest.approx(0.7, abs=0.01)
    ends = Flow(t_distribution="logit_normal").level(torch.tensor([0.0, 1 - 2.0**-24]))
    assert 0 < ends[0] < ends[1] < 1
    assert torch.equal(Flow().level(uniform), uniform)


@pytest.mark.parametrize("interpolant", ["linear", "cosine"])
def test_loss_arithmetic_is_fp32_for_a_bf16_model(interpolant):
    clean, noise, output = torch.randn(3, 2, 1, 4, 4)
    loss = Flow(interpolant).loss(output.bfloat16(), clean, noise, torch.tensor([0.2, 0.9]))["mse"]
    assert loss.dtype == torch.float32
    assert torch.equal(loss, Flow(interpolant).loss(output.bfloat16().float(), clean, noise, torch.tensor([0.2, 0.9]))["mse"])
