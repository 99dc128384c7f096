"""Guidance: which channels, at which levels, how strongly, and what it costs."""

import math

import pytest
import torch

from ditscale.diffusion.ddpm import Ddpm
from ditscale.diffusion.ddpm_options import DdpmConfig
from ditscale.diffusion.edm import Edm
from ditscale.diffusion.edm_options import EdmConfig
from ditscale.diffusion.flow import Flow
from ditscale.diffusion.flow_options import FlowConfig
from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.nfe import Sampling, evaluated_levels, forwards
from ditscale.diffusion.samplers import sample


def labeled(x, t, y):
    """Output of eight channels for four: each depends on the label in its own way."""
    label = y.float()[:, None, None, None]
    return torch.cat([torch.tanh(x + label), torch.cos(x * label)], dim=1)


def parts():
    x, t, y = torch.randn(3, 4, 2, 2), torch.full((3,), 500.0), torch.tensor([0, 4, 9])
    return x, t, y, labeled(x, t, y), labeled(x, t, torch.full_like(y, 10))


def test_first3_leaves_the_fourth_channel_and_the_variance_to_the_conditional_pass():
    x, t, y, cond, uncond = parts()
    out = Guided(labeled, 3.0, 10, channels="first3")(x, t, y)
    assert torch.allclose(out[:, :3], uncond[:, :3] + 3.0 * (cond[:, :3] - uncond[:, :3]), atol=1e-5)
    assert torch.equal(out[:, 3:], cond[:, 3:])


def test_all_guides_the_image_channels_and_never_the_variance():
    x, t, y, cond, uncond = parts()
    out = Guided(labeled, 3.0, 10)(x, t, y)
    assert torch.allclose(out[:, :4], uncond[:, :4] + 3.0 * (cond[:, :4] - uncond[:, :4]), atol=1e-5)
    assert torch.equal(out[:, 4:], cond[:, 4:])


def test_power_cosine_is_mdts():
    """w_t = 1 + (w - 1) (1 - cos(pi (1 - t / T)^4)) / 2."""
    guided = Guided(labeled, 3.8, 10, schedule="power_cosine", noise_share=Ddpm().noise_share)
    for t in (0, 100, 500, 900, 999):
        assert guided.scale_at(t) == pytest.approx(1 + 2.8 * (1 - math.cos(math.pi * (1 - t / 1000) ** 4)) / 2, rel=1e-12)
    assert guided.scale_at(0) == 3.8
    edm = Edm()
    assert edm.noise_share(80.0) == 1 and edm.noise_share(0.002) == 0 and 0 < edm.noise_share(1.0) < 1


def count_rows(formulation, config, sampling, scale, interval):
    """Rows that the model sees for each image, in sampling and by the torch-free count."""
    rows = []

    def model(x, t, y):
        rows.append(len(x))
        return torch.zeros(len(x), x.shape[1] * (1 + formulation.learn_sigma), *x.shape[2:])

    guided = Guided(model, scale, 10, interval=interval)
    sample(guided, formulation, torch.randn(3, 1, 2, 2), torch.zeros(3, dtype=torch.long), seed=0, positions=torch.arange(3),
           **vars(sampling))
    assert len(rows) == sampling.evaluations == len(evaluated_levels(config, sampling))
    assert set(rows) <= {3, 6}
    return sum(rows) / 3, forwards(config, sampling, scale, interval)


@pytest.mark.parametrize("name, sampling, interval", [
    ("flow", Sampling("heun", 7), (0.2, 0.7)), ("flow", Sampling("euler", 9), (0.0, 0.5)),
    ("flow", Sampling("sde", 9), (0.03, 0.5)), ("flow", Sampling("heun", 7, heun_last="heun"), (0.0, 0.6)),
    ("edm", Sampling("heun", 8), (0.1, 2.0)), ("edm", Sampling("heun", 8, churn=20.0, churn_interval=(0.05, 50.0)), (0.1, 2.0)),
    ("edm", Sampling("euler", 8), (0.1, 2.0)), ("ddpm", Sampling("ddpm", 10), (222, 600)),
    ("ddpm", Sampling("ddim", 10), (222, 600)),
    ("ddpm", Sampling("heun", 10, respacing="ddim"), (222, 600))])
def test_outside_the_interval_one_pass_runs(name, sampling, interval):
    formulation, config = {"flow": (Flow(), FlowConfig(name="flow")), "edm": (Edm(), EdmConfig(name="edm")),
                           "ddpm": (Ddpm(), DdpmConfig(name="ddpm"))}[name]
    whole = sampling.evaluations
    some, counted = count_rows(formulation, config, sampling, 2.0, interval)
    assert some == counted and whole < some < 2 * whole
    assert count_rows(formulation, config, sampling, 1.0, interval) == (whole, whole)
    assert count_rows(formulation, config, sampling, 2.0, None) == (2 * whole, 2 * whole)


def test_outside_the_interval_the_conditional_model_is_called():
    guided = Guided(labeled, 2.0, 10, interval=(0.2, 0.7))
    assert guided.at(0.1) is labeled and guided.at(0.8) is labeled and guided.at(0.7) is not labeled
