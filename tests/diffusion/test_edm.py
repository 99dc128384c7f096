"""EDM's preconditioning, noise levels and loss against float64 references."""

import math

import numpy as np
import pytest
import torch

from ditscale.diffusion.edm import Edm
from ditscale.diffusion.edm_options import edm_levels
from ditscale.diffusion.formulation import normal_quantile, quantile_in_fp32


def test_preconditioning_and_loss_by_hand():
    edm = Edm()
    g = torch.Generator().manual_seed(0)
    clean, noise, output = torch.randn(3, 4, 2, 3, 3, generator=g).unbind()[:3]
    sigma = torch.tensor([0.002, 0.1, 1.0, 80.0])
    noisy = edm.add_noise(clean, noise, sigma)
    scaled, time = edm.model_inputs(noisy, sigma)
    terms = edm.loss(output, clean, noise, sigma)
    clean_guess, noise_guess = edm.predictions(output, noisy, sigma)
    for i, s in enumerate(sigma.double().tolist()):
        x0, n, f = (part[i].double() for part in (clean, noise, output))
        x, total = x0 + s * n, s**2 + 0.25
        d = 0.25 / total * x + s * 0.5 / math.sqrt(total) * f
        assert torch.allclose(noisy[i].double(), x, rtol=1e-5, atol=1e-6)
        assert torch.allclose(scaled[i].double(), x / math.sqrt(total), rtol=1e-5, atol=1e-6)
        assert time[i].item() == pytest.approx(1000 * math.log(s) / 4, rel=1e-5, abs=1e-4)
        expected = total / (s * 0.5) ** 2 * (d - x0) ** 2
        assert terms["mse"][i].double().mean().item() == pytest.approx(expected.mean().item(), rel=1e-5 if s > 0.01 else 1e-3)
        assert torch.allclose(clean_guess[i].double(), d, rtol=1e-5, atol=1e-5)
        slope = edm.slope(output, noisy, sigma)[i].double()
        assert torch.allclose(slope, (x - d) / s, rtol=1e-5, atol=1e-5)
    assert list(terms) == ["mse"] and torch.isfinite(noise_guess).all()


def test_network_target_has_unit_weight_at_every_level():
    """The weight is chosen so that the loss is the plain squared error of the raw output F against its own target."""
    edm, sigma = Edm(), torch.tensor([0.002, 0.3, 5.0, 80.0])
    clean, noise, output = torch.randn(3, 4, 1, 4, 4)
    total = (sigma**2 + 0.25)[:, None, None, None]
    s = sigma[:, None, None, None]
    target = (clean - 0.25 / total * (clean + s * noise)) / (s * 0.5 / total.sqrt())
    assert torch.allclose(edm.loss(output, clean, noise, sigma)["mse"], (output - target) ** 2, rtol=1e-2, atol=1e-3)


def test_levels_are_log_normal():
    uniform = (torch.arange(2**14) * 2**10).float() * 2.0**-24
    logs = Edm().level(uniform).double().log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.01) and logs.std().item() == pytest.approx(1.2, abs=0.01)
    ends = Edm().level(torch.tensor([0.0, 1 - 2.0**-24]))
    assert torch.isfinite(ends.log()).all() and ends[0] < 0.01 < 50 < ends[1]


def test_levels_of_a_gpu_are_those_of_a_cpu_to_their_last_digits(monkeypatch):
    """A GPU takes the quantile in fp32; every cell of both ends, and many between."""
    ends = torch.arange(2**16).float() * 2.0**-24
    uniform = torch.cat([ends, 1 - 2.0**-24 - ends, torch.rand(10**5), torch.tensor([0.5, 0.5 - 2.0**-24])])
    on_cpu, quantile = Edm().level(uniform), quantile_in_fp32(uniform)
    assert (quantile.double() - normal_quantile(uniform)).abs().max() < 1e-6 and quantile.dtype is torch.float32
    monkeypatch.setattr("ditscale.diffusion.edm.normal_quantile", quantile_in_fp32)
    assert torch.allclose(Edm().level(uniform), on_cpu, rtol=3e-6, atol=0)


def test_schedule():
    levels = edm_levels(18, 0.002, 80.0, 7.0)
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)] + [0]
    assert np.allclose(levels, expected, rtol=1e-12) and levels[0] == pytest.approx(80) and len(levels) == 19
    assert edm_levels(1, 0.002, 80.0, 7.0) == pytest.approx([80.0, 0.0])
