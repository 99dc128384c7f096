"""Every sampler against Gaussian data, for which everything is known; noise by position; what is refused."""

import math

import pytest
import torch

from ditscale import randomness
from ditscale.config import EvaluationConfig
from ditscale.diffusion.ddpm import Ddpm
from ditscale.diffusion.ddpm_options import ddpm_levels
from ditscale.diffusion.edm import Edm
from ditscale.diffusion.flow import Flow
from ditscale.diffusion.flow_options import flow_levels
from ditscale.diffusion.gaussian import COVARIANCE, MEAN, gaussian_network, ode_map
from ditscale.diffusion.nfe import Sampling
from ditscale.diffusion.registry import FORMULATIONS
from ditscale.diffusion.samplers import DIFFUSIONS, sample
from ditscale.errors import UserError


def start(count=1, seed=0):
    return torch.randn(count, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draw(formulation, noise, **options):
    options = {"seed": 5, "positions": torch.arange(len(noise)), **options}
    return sample(gaussian_network(formulation), formulation, noise, torch.zeros(len(noise)), **options)


@pytest.mark.parametrize("make, options", [
    (Ddpm, {"sampler": "ddpm", "steps": 1000}), (Ddpm, {"sampler": "ddim", "steps": 250}),
    (Ddpm, {"sampler": "ddim", "steps": 500, "eta": 1.0}), (Ddpm, {"sampler": "heun", "steps": 100}),
    (Ddpm, {"sampler": "euler", "steps": 250}), (lambda: Ddpm("cosine"), {"sampler": "ddpm", "steps": 500}),
    (Edm, {"sampler": "heun", "steps": 32}), (Edm, {"sampler": "euler", "steps": 500}),
    (Edm, {"sampler": "heun", "steps": 128, "churn": 20.0}), (Edm, {"sampler": "euler", "steps": 500, "churn": 10.0}),
    (Flow, {"sampler": "heun", "steps": 32}), (Flow, {"sampler": "euler", "steps": 250}),
    (Flow, {"sampler": "sde", "steps": 500}), (Flow, {"sampler": "sde", "steps": 500, "sde_diffusion": "sin2"}),
    (Flow, {"sampler": "sde", "steps": 500, "sde_diffusion": "kl"}), (Flow, {"sampler": "heun", "steps": 32, "heun_last": "heun"}),
    (Flow, {"sampler": "sde", "steps": 500, "sde_norm": 1.0, "sde_last": "mean"}),
    (Flow, {"sampler": "sde", "steps": 1000, "sde_norm": 2.0, "sde_diffusion": "sin2", "sde_last": "mean"}),
    (lambda: Flow("cosine", time_scale=1.0), {"sampler": "sde", "steps": 500, "sde_norm": 1.0, "sde_last_step": 0.01}),
    (lambda: Flow("cosine"), {"sampler": "heun", "steps": 32}), (lambda: Flow("cosine"), {"sampler": "euler", "steps": 250}),
    (lambda: Flow("cosine"), {"sampler": "sde", "steps": 500})])
def test_gaussian_data_are_recovered(make, options):
    """Mean and covariance of 16,384 pixels, whose own sampling error is about 0.004."""
    pixels = draw(make(), start(64), **options).transpose(0, 1).flatten(1)
    assert (pixels.mean(1) - MEAN).abs().max() < 0.015
    assert (torch.cov(pixels) - COVARIANCE).abs().max() < 0.012


@pytest.mark.parametrize("name, make, steps", [("edm", Edm, (64, 128, 256)), ("flow", Flow, (32, 64, 128)),
                                               ("flow_cosine", lambda: Flow("cosine"), (32, 64, 128))])
@pytest.mark.parametrize("sampler, order", [("euler", 1), ("heun", 2)])
def test_order_of_convergence(name, make, steps, sampler, order):
    formulation, noise = make(), start()
    # EDM stops at sigma_min with one plain Euler step, so its error has a floor; a small sigma_min lowers it out of sight.
    if name == "edm":
        formulation = Edm(sigma_min=1e-5)
    truth = ode_map(formulation, noise)
    errors = [(draw(formulation, noise, sampler=sampler, steps=n) - truth).abs().max().item() for n in steps]
    rates = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:])]
    assert all(rate == pytest.approx(order, abs=0.3) for rate in rates), (errors, rates)


@pytest.mark.parametrize("kind", ["velocity", "mean", "tweedie"])
@pytest.mark.parametrize("interpolant", ["linear", "cosine"])
def test_the_last_step_of_the_sde_by_hand(interpolant, kind):
    """From the sample that the network last saw, with the score and the posterior mean of Gaussian data in closed form."""
    flow, level, norm, seen = Flow(interpolant), 0.2, 0.8, []
    network = gaussian_network(flow)
    images = sample(lambda x, t, y: seen.append((x, t)) or network(x, t, y), flow, start(2), torch.zeros(2), sampler="sde",
                    steps=4, seed=5, positions=torch.arange(2), sde_last_step=level, sde_norm=norm, sde_last=kind)
    x, time = seen[-1]
    signal, spread, _, _ = flow.scalars(level)
    inverse = torch.linalg.inv(signal**2 * COVARIANCE + spread**2 * torch.eye(2, dtype=torch.float64))
    score = -torch.einsum("cd,bdhw->bchw", inverse, x - signal * MEAN[:, None, None])
    velocity = network(x, time, None)
    expected = {"velocity": x - level * velocity, "mean": x + level * (norm * spread * score - velocity),
                "tweedie": (x + spread**2 * score) / signal}[kind]
    assert len(seen) == 4 and torch.allclose(images, expected, atol=1e-10)


def test_ddpm_ode_approaches_the_exact_map():
    """The chain has 1000 levels and no more, so there is no limit to take: Heun on 100 of them beats Euler on 500."""
    ddpm, noise = Ddpm(), start()
    truth = ode_map(ddpm, noise)
    error = lambda sampler, steps: (draw(ddpm, noise, sampler=sampler, steps=steps) - truth).abs().max().item()
    assert error("euler", 1000) < 0.6 * error("euler", 500) < 0.4 * error("euler", 200)
    assert error("heun", 100) < error("euler", 500)


STOCHASTIC = [(Ddpm, {"sampler": "ddpm", "steps": 6}), (Ddpm, {"sampler": "ddim", "steps": 6, "eta": 0.5}),
              (Edm, {"sampler": "heun", "steps": 6, "churn": 5.0}), (Edm, {"sampler": "euler", "steps": 6, "churn": 5.0}),
              (Flow, {"sampler": "sde", "steps": 6})]


@pytest.mark.parametrize("make, options", STOCHASTIC)
def test_image_i_is_the_same_in_any_batch_and_order(make, options):
    formulation, positions = make(), torch.arange(12)
    network = gaussian_network(formulation)

    def images(positions, batch):
        parts = []
        for part in positions.split(batch):
            noise = randomness.draw(5, part, {"sampling noise": randomness.Normal((2, 4, 4))})["sampling noise"].double()
            parts.append(sample(network, formulation, noise, torch.zeros(len(part)), seed=5, positions=part, **options))
        return torch.cat(parts)

    whole, order = images(positions, 12), torch.randperm(12)
    assert torch.allclose(images(order, 5), whole[order], atol=1e-12)
    assert torch.allclose(torch.cat([images(positions[rank::3], 2) for rank in range(3)]),
                          torch.cat([whole[rank::3] for rank in range(3)]), atol=1e-12)
    assert not torch.allclose(whole, draw(formulation, torch.cat([
        randomness.draw(5, positions, {"sampling noise": randomness.Normal((2, 4, 4))})["sampling noise"].double()]),
        **{**options, "seed": 6}))


@pytest.mark.parametrize("make, options", STOCHASTIC)
def test_noise_needs_a_seed(make, options):
    with pytest.raises(UserError, match="needs seed and positions"):
        draw(make(), start(), **{**options, "seed": None})


def test_every_step_has_its_own_noise_and_drawing_ahead_changes_nothing():
    from ditscale.diffusion.samplers import StepNoise

    one, ahead = (StepNoise(3, torch.tensor([4, 9]), (2, 3, 3), 20) for _ in range(2))
    ahead.at_once = 8
    drawn = [one.at(i) for i in range(20)]
    assert all(torch.equal(values, ahead.at(i)) for i, values in enumerate(drawn))
    assert len({values.sum().item() for values in drawn}) == 20


@pytest.mark.parametrize("make, options, words", [
    (Flow, {"sampler": "ddpm"}, "'ddpm' does not work with formulation 'flow': heun, euler, sde would"),
    (Edm, {"sampler": "sde"}, "heun, euler would"), (Ddpm, {"sampler": "sde"}, "ddpm, ddim, heun, euler would"),
    (Flow, {"sampler": "heun", "churn": 1.0}, "churn is for formulation edm"),
    (Ddpm, {"sampler": "ddpm", "eta": 1.0}, "eta is for sampler ddim"),
    (Edm, {"sampler": "heun", "timesteps": (1, 2, 3, 4, 5)}, "timesteps is for formulation ddpm"),
    (Ddpm, {"sampler": "ddim", "steps": 1200}, "1200 is more than the 1000")])
def test_pairs_that_make_no_sense_are_refused(make, options, words):
    with pytest.raises(UserError, match=words):
        draw(make(), start(), **{"steps": 5, **options})


def test_levels():
    for steps in (1, 2, 3, 10, 15, 50, 250, 999):
        assert flow_levels(steps) == pytest.approx(torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist(), abs=1e-15)
    assert flow_levels(3, 0.04) == pytest.approx([1, 0.68, 0.36, 0.04])
    assert ddpm_levels(3) == [999.0, 500.0, 0.0, -1.0]


def test_config_and_samplers_name_the_same_things():
    field = lambda name: set(EvaluationConfig.model_fields[name].annotation.__args__)
    assert field("sampler") == {name for options in FORMULATIONS for name in options.samplers}
    assert field("sde_diffusion") == set(DIFFUSIONS)
    defaults = {name: value for name, value in vars(Sampling("heun", 1)).items() if name not in ("sampler", "steps")}
    assert {name: EvaluationConfig.model_fields[name].default for name in defaults} == defaults


def test_heun_to_the_end_has_a_smaller_error():
    flow, noise = Flow(), start()
    truth = ode_map(flow, noise)
    errors = {last: [(draw(flow, noise, sampler="heun", steps=n, heun_last=last) - truth).abs().max().item() for n in (32, 64, 128)]
              for last in ("euler", "heun")}
    assert all(whole < plain for whole, plain in zip(errors["heun"], errors["euler"]))
    assert all(math.log2(coarse / fine) == pytest.approx(2, abs=0.3) for coarse, fine in zip(errors["heun"], errors["heun"][1:]))


def test_no_gradient_is_kept():
    assert draw(Flow(), start(), sampler="euler", steps=2).is_inference()
