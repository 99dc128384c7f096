"""DDPM against few-line references in float64 and against diffusers' schedulers."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ditscale.diffusion.ddpm import Chain, Ddpm, make_betas
from ditscale.diffusion.ddpm_options import CLEAN, ddpm_levels
from ditscale.diffusion.samplers import sample
from ditscale.errors import UserError


def reference_chain(schedule="linear"):
    if schedule == "linear":
        beta = np.array([1e-4 + (2e-2 - 1e-4) * i / 999 for i in range(1000)])
    else:
        f = lambda i: math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = np.array([min(1 - f(i + 1) / f(i), 0.999) for i in range(1000)])
    return beta, np.array([np.prod(1 - beta[:i + 1]) for i in range(1000)])


def reference_posterior(beta, ab, clean, noisy, t):
    """DDPM eq. 7."""
    before = ab[t - 1] if t else 1.0
    mean = math.sqrt(before) * beta[t] / (1 - ab[t]) * clean + math.sqrt(1 - beta[t]) * (1 - before) / (1 - ab[t]) * noisy
    return mean, beta[t] * (1 - before) / (1 - ab[t])


def reference_loss(beta, ab, output, clean, noise, t):
    """MSE and variational term of one image, elementwise, the latter in bits."""
    eps, v = np.split(output, 2)
    noisy = math.sqrt(ab[t]) * clean + math.sqrt(1 - ab[t]) * noise
    clipped = reference_posterior(beta, ab, clean, noisy, max(t, 1))[1]       # the first takes its successor's variance
    log_variance = (v + 1) / 2 * math.log(beta[t]) + (1 - v) / 2 * math.log(clipped)
    guess = (noisy - math.sqrt(1 - ab[t]) * eps) / math.sqrt(ab[t])
    mean, _ = reference_posterior(beta, ab, guess, noisy, t)
    true_mean, _ = reference_posterior(beta, ab, clean, noisy, t)
    if t == 0:
        std = np.exp(0.5 * log_variance)
        upper = np.where(clean > 0.999, 1.0, norm.cdf((clean + 1 / 255 - mean) / std))
        lower = np.where(clean < -0.999, 0.0, norm.cdf((clean - 1 / 255 - mean) / std))
        nats = -np.log(np.maximum(upper - lower, 1e-12))
    else:                                                                      # KL of two normals
        nats = 0.5 * (log_variance - math.log(clipped) - 1 + clipped / np.exp(log_variance)
                      + (true_mean - mean) ** 2 / np.exp(log_variance))
    return (eps - noise) ** 2, nats / math.log(2)


def batch_at(timesteps, seed=0):
    g = torch.Generator().manual_seed(seed)
    clean = torch.rand(len(timesteps), 3, 4, 4, generator=g) * 2 - 1
    clean[:, 0, 0, 0], clean[:, 0, 0, 1] = 1.0, -1.0
    noise = torch.randn(clean.shape, generator=g)
    v = torch.rand(clean.shape, generator=g) * 2.4 - 1.2
    output = torch.cat([noise + 0.3 * torch.randn(clean.shape, generator=g), v], dim=1)
    return clean, noise, output, torch.tensor(timesteps)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_noising_posterior_and_losses(schedule):
    ddpm, (beta, ab) = Ddpm(schedule), reference_chain(schedule)
    assert np.allclose(make_betas(schedule), beta, rtol=1e-12)
    clean, noise, output, t = batch_at([0, 0, 1, 2, 17, 250, 500, 998, 999])
    noisy = ddpm.add_noise(clean, noise, t)
    terms = ddpm.loss(output, clean, noise, t)
    for i, step in enumerate(t.tolist()):
        one = [part[i].double().numpy() for part in (clean, noise, output)]
        expected = math.sqrt(ab[step]) * one[0] + math.sqrt(1 - ab[step]) * one[1]
        assert np.allclose(noisy[i].numpy(), expected, rtol=1e-5, atol=1e-6)
        mean, variance = reference_posterior(beta, ab, one[0], expected, step)
        chain = ddpm.chain
        assert np.allclose(chain.clean_weight[step] * one[0] + chain.noisy_weight[step] * expected, mean, rtol=1e-10, atol=1e-12)
        assert step == 0 or math.exp(chain.log_posterior[step]) == pytest.approx(variance, rel=1e-9)
        mse, vb = reference_loss(beta, ab, one[2], one[0], one[1], step)
        assert np.allclose(terms["mse"][i].numpy(), mse, rtol=1e-5, atol=1e-6)
        assert terms["vb"][i].double().numpy().mean() == pytest.approx(vb.mean(), rel=1e-5, abs=1e-6), step
        assert np.allclose(terms["vb"][i].numpy(), vb, rtol=1e-4, atol=1e-5), step


def test_variational_term_teaches_the_variance_alone():
    ddpm = Ddpm()
    clean, noise, output, t = batch_at([0, 3, 400])
    output.requires_grad_()
    ddpm.loss(output, clean, noise, t)["vb"].sum().backward()
    assert output.grad[:, :3].abs().max() == 0 and output.grad[:, 3:].abs().min() > 0


def test_min_snr_weighs_the_mse_alone():
    clean, noise, output, t = batch_at([0, 100, 500, 900])
    plain, weighed = Ddpm().loss(output, clean, noise, t), Ddpm(min_snr_gamma=5.0).loss(output, clean, noise, t)
    _, ab = reference_chain()
    for i, step in enumerate(t.tolist()):
        snr = ab[step] / (1 - ab[step])
        assert torch.allclose(weighed["mse"][i], plain["mse"][i] * min(snr, 5.0) / snr, rtol=1e-5)
    assert torch.equal(weighed["vb"], plain["vb"])


def test_levels_are_uniform_whole_timesteps():
    uniform = torch.cat([(torch.arange(4000) + 0.5) / 4000, torch.tensor([1 - 2.0**-24])])
    levels = Ddpm().level(uniform)
    assert levels.dtype == torch.int64 and levels.max() == 999
    assert levels[:4000].bincount().tolist() == [4] * 1000


def test_respacing_picks_the_published_indices():
    upwards = lambda *a, **k: [int(level) for level in reversed(ddpm_levels(*a, **k)[:-1])]
    assert upwards(250) == [round(i * 999 / 249) for i in range(250)]
    assert upwards(250)[:3] + upwards(250)[40:44] + upwards(250)[-2:] == [0, 4, 8, 160, 164, 169, 173, 995, 999]
    assert upwards(10) == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert upwards(1000) == list(range(1000)) and upwards(1) == [0]
    assert upwards(50, "ddim") == list(range(0, 1000, 20))
    assert upwards(6, (1, 2, 3)) == [0, 334, 666, 667, 833, 999]               # sections of 334, 333, 333
    assert upwards(3, timesteps=(500, 0, 999)) == [0, 500, 999]
    assert ddpm_levels(2)[-1] == CLEAN


@pytest.mark.parametrize("arguments, words", [
    ((1001,), "1001 is more than the 1000 training timesteps"), ((999, "ddim"), "no integer stride for 999"),
    ((5, (1, 2)), "sampling_steps=3 would fit"), ((400, (400, 1, 1, 1)), "section of 250"),
    ((2, "even", (5, 1000)), "from 0 to 999"), ((2, "even", (5, 5)), "different")])
def test_impossible_respacings_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        ddpm_levels(*arguments)


def test_respaced_chain_is_a_chain_of_its_own():
    """Betas of the kept steps follow from ab alone (iDDPM, Sec. 4)."""
    ddpm, (_, ab) = Ddpm(), reference_chain()
    levels = ddpm_levels(10)
    chain = ddpm.respaced(levels)
    kept = [ab[int(level)] for level in levels[:-1]] + [1.0]
    for i in range(10):
        beta = 1 - kept[i] / kept[i + 1]
        assert math.exp(chain.log_beta[i]) == pytest.approx(beta, rel=1e-9)
        posterior = beta * (1 - kept[i + 1]) / (1 - kept[i])
        assert i == 9 or math.exp(chain.log_posterior[i]) == pytest.approx(posterior, rel=1e-9)
    assert chain.log_posterior[9] == chain.log_posterior[8]
    assert Chain(np.array([0.9])).log_posterior == pytest.approx(math.log(0.1))


def fixed_network(x, t, y):
    """Some smooth function with a variance part; fp32 and fp64."""
    where = (t / 1000)[:, None, None, None]
    return torch.cat([torch.sin(1.3 * x + where) + 0.2 * x, torch.cos(x - where)], dim=1)


def test_ddim_step_by_hand():
    _, ab = reference_chain()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    drawn = sample(fixed_network, Ddpm(), x, torch.zeros(2), sampler="ddim", steps=5)
    kept = [999, 749, 500, 250, 0]
    for i, t in enumerate(kept):
        before = ab[kept[i + 1]] if i < 4 else 1.0
        eps = fixed_network(x, torch.full((2,), float(t), dtype=torch.float64), None)[:, :3]
        guess = (x - math.sqrt(1 - ab[t]) * eps) / math.sqrt(ab[t])
        x = math.sqrt(before) * guess + math.sqrt(1 - before) * eps
    assert torch.allclose(drawn, x, atol=1e-10)
    euler = sample(fixed_network, Ddpm(), torch.ones(1, 3, 4, 4), torch.zeros(1), sampler="euler", steps=7)
    ddim = sample(fixed_network, Ddpm(), torch.ones(1, 3, 4, 4), torch.zeros(1), sampler="ddim", steps=7)
    assert torch.allclose(euler, ddim, atol=1e-6)
