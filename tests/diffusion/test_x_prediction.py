"""A network that outputs the clean image: its loss against fp64 by hand, its velocity, and every sampler against velocity prediction."""

import math

import pytest
import torch

from ditscale.diffusion.flow import LEAST_T, Flow
from ditscale.diffusion.flow_options import FlowConfig
from ditscale.diffusion.gaussian import gaussian_network
from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.nfe import Sampling
from ditscale.diffusion.samplers import sample

LEVELS = torch.tensor([0.0, 0.01, 0.05, 0.3, 1.0], dtype=torch.float64)


def images(*shape):
    return torch.randn(*shape, 5, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).unbind()


def test_loss_of_the_linear_interpolant_by_hand():
    output, clean, noise = images(3)
    loss = Flow(prediction="x").loss(output, clean, noise, LEVELS)["mse"]
    for i, t in enumerate(LEVELS.tolist()):
        torch.testing.assert_close(loss[i], ((output[i] - clean[i]) / max(t, 0.05)) ** 2)


@pytest.mark.parametrize("interpolant", ["linear", "cosine"])
def test_it_is_the_velocitys_loss_from_the_clip_on(interpolant):
    """At t of 0.05 and more the loss is that of the velocity which the clean image implies, and so is the slope."""
    x, velocity = Flow(interpolant, prediction="x"), Flow(interpolant)
    output, clean, noise = images(3)
    t = LEVELS.clamp(min=LEAST_T)
    noisy = x.add_noise(clean, noise, t)
    implied = x.slope(output, noisy, t)
    torch.testing.assert_close(x.loss(output, clean, noise, t)["mse"], velocity.loss(implied, clean, noise, t)["mse"])
    torch.testing.assert_close(x.slope(clean, noisy, t), velocity.network_output(clean, noise, noisy, t))
    for ours, theirs in zip(x.predictions(output, noisy, t), velocity.predictions(implied, noisy, t)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("interpolant", ["linear", "cosine"])
def test_below_the_clip_the_velocity_shrinks_and_stays_finite(interpolant):
    flow, (clean, noise) = Flow(interpolant, prediction="x"), images(2)
    t = torch.tensor([0.0, 0.01, 0.02, 0.04, 0.05], dtype=torch.float64)
    noisy = flow.add_noise(clean, noise, t)
    share = [flow.scalars(level)[1] / flow.scalars(LEAST_T)[1] for level in t.tolist()]
    wanted = torch.tensor(share, dtype=torch.float64)[:, None, None, None] * Flow(interpolant).network_output(clean, noise, noisy, t)
    torch.testing.assert_close(flow.slope(clean, noisy, t), wanted)


@pytest.mark.parametrize("interpolant", ["linear", "cosine"])
@pytest.mark.parametrize("options", [
    {"sampler": "heun", "steps": 20}, {"sampler": "euler", "steps": 20}, {"sampler": "euler", "steps": 20, "shift": 3.0},
    *({"sampler": "sde", "steps": 12, "sde_last_step": 0.05, "sde_last": last} for last in ("velocity", "mean", "tweedie"))],
    ids=lambda one: "-".join(map(str, one.values())))
def test_samplers_whose_levels_are_not_clipped_make_the_same_images(interpolant, options):
    options = dict(options)
    facts = {"interpolant": interpolant, "time_shift": options.pop("shift", 1.0)}
    noise = torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = []
    for prediction in ("velocity", "x"):
        flow = Flow(**facts, prediction=prediction)
        model = Guided(gaussian_network(flow), 1.5, null_class=10)             # also guided: both are affine in one another
        labels = torch.zeros(3, dtype=torch.long)
        made.append(sample(model, flow, noise, labels, seed=5, positions=torch.arange(3), **options))
    torch.testing.assert_close(made[0], made[1], rtol=1e-6, atol=1e-8)


def test_with_more_steps_the_noise_below_the_clip_partly_stays():
    """Of the noise at t = 0.05 each of the last steps takes h / 0.05: (1 - h / 0.05)^k of it is left, as in JiT's own sampler."""
    flow, steps = Flow(prediction="x"), 100
    noise = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    left = sample(lambda x, t, y: torch.full_like(x, 0.3), flow, noise, torch.zeros(2), sampler="euler", steps=steps) - 0.3
    torch.testing.assert_close(left, (1 - 0.01 / 0.05) ** 5 * 0.05 * (noise - 0.3), rtol=1e-5, atol=1e-9)


def test_heun_ends_are_finite():
    flow = Flow(prediction="x")
    for options in ({"heun_last": "heun"}, {}):
        made = sample(gaussian_network(flow), flow, torch.randn(2, 2, 4, 4, dtype=torch.float64), torch.zeros(2), sampler="heun", steps=50, **options)
        assert made.isfinite().all()


def test_passports_of_losses_state_it_and_those_of_samples_do_not():
    options = FlowConfig(name="flow", prediction="x")
    assert options.stated()["prediction"] == "x" and "prediction" not in FlowConfig(name="flow").stated()
    assert Sampling("heun", 8).options(options) == {} and options.make().predicts_clean


def test_loss_arithmetic_is_fp32_for_a_bf16_model():
    clean, noise, output = torch.randn(3, 2, 1, 4, 4)
    loss = Flow(prediction="x").loss(output.bfloat16(), clean, noise, torch.tensor([0.2, 0.9]))["mse"]
    assert loss.dtype == torch.float32 and math.isfinite(loss.sum())
