"""The time shift of flow: its direction by meaning, training and sampling levels against closed forms, and who states it."""

import math

import pytest
import torch

from ditscale.config import resolve
from ditscale.diffusion.flow import Flow
from ditscale.diffusion.flow_options import FlowConfig, flow_levels, shifted
from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.nfe import Sampling
from ditscale.errors import UserError
from ditscale.objectives.from_config import make_objective

UNIFORM = (torch.arange(1, 2**10) * 2**14).float() * 2.0**-24
DRAWS = [{}, {"t_distribution": "logit_normal", "logit_mean": -0.3, "logit_std": 0.8}]


def snr(flow, t):
    signal, spread = flow.coefficients(t.double())
    return (signal / spread).square()


@pytest.mark.parametrize("interpolant", ["linear", "cosine"])
@pytest.mark.parametrize("draw", DRAWS)
def test_a_shift_above_one_lowers_the_signal_to_noise_ratio_of_training_and_sampling(interpolant, draw):
    plain, more, less = (Flow(interpolant, **draw, time_shift=shift) for shift in (1.0, 3.0, 0.5))
    assert (snr(more, more.level(UNIFORM)) < snr(plain, plain.level(UNIFORM))).all()
    assert (snr(less, less.level(UNIFORM)) > snr(plain, plain.level(UNIFORM))).all()
    grids = [torch.tensor(flow.sampling_levels(Sampling("heun", 8))[1:-1]) for flow in (more, plain, less)]
    assert (snr(plain, grids[0]) < snr(plain, grids[1])).all() and (snr(plain, grids[1]) < snr(plain, grids[2])).all()


def test_of_the_linear_interpolant_it_divides_the_snr_by_its_square():
    """Why sqrt(dim / 4096): with s^2 times as many numbers that agree, averaging them would raise the SNR by s^2."""
    plain, more = Flow(), Flow(time_shift=3.0)
    torch.testing.assert_close(snr(plain, plain.level(UNIFORM)) / snr(more, more.level(UNIFORM)), torch.full((len(UNIFORM),), 9.0).double(),
                               rtol=1e-3, atol=0)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_shift_of_one_is_bitwise_none(draw):
    plain, one = Flow(**draw), Flow(**draw, time_shift=1.0)
    assert torch.equal(plain.level(UNIFORM), one.level(UNIFORM))
    for sampler in ("heun", "sde"):
        options = FlowConfig(name="flow", time_shift=1.0)
        assert options.sampling_levels(Sampling(sampler, 7)) == FlowConfig(name="flow").sampling_levels(Sampling(sampler, 7))
    assert options.sampling_levels(Sampling("heun", 7)) == flow_levels(7)
    assert options.sampling_levels(Sampling("sde", 7)) == [*flow_levels(6, 0.04), 0.0]


def test_quantiles_of_training_levels():
    """Of uniform draws the quantile u is at s u / (1 + (s - 1) u); of a logit-normal, drawn and then shifted, the shift is added to
    the mean of the logit as ln s."""
    u = UNIFORM.double()
    torch.testing.assert_close(Flow(time_shift=2.5).level(UNIFORM).double(), 2.5 * u / (1 + 1.5 * u), rtol=1e-6, atol=0)
    drawn = Flow(t_distribution="logit_normal", logit_mean=-0.3, logit_std=0.8, time_shift=2.5).level(UNIFORM).double()
    wanted = torch.sigmoid(-0.3 + math.log(2.5) + 0.8 * torch.special.ndtri(u + 2.0**-25))
    torch.testing.assert_close(drawn, wanted, rtol=1e-6, atol=0)
    ends = Flow(time_shift=0.01).level(torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [0.0, 1.0] and Flow(time_shift=7.3).level(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("shift", [0.3, 1.7, 6.93])
def test_sampling_grid(shift):
    flow = FlowConfig(name="flow", time_shift=shift)
    wanted = [shift * t / (1 + (shift - 1) * t) for t in (1 - i / 10 for i in range(11))]
    assert flow.sampling_levels(Sampling("heun", 10)) == pytest.approx(wanted, abs=1e-12)
    assert flow.sampling_levels(Sampling("euler", 10))[::10] == [1.0, 0.0] == flow.sampling_levels(Sampling("sde", 1))
    levels = flow.sampling_levels(Sampling("sde", 10, sde_last_step=0.1))
    assert len(levels) == 11 and (levels[0], levels[-2], levels[-1]) == (1.0, 0.1, 0.0)
    unshifted = [t / (shift - (shift - 1) * t) for t in levels[:-1]]           # evenly spaced before the shift
    gaps = [a - b for a, b in zip(unshifted, unshifted[1:])]
    assert gaps == pytest.approx([gaps[0]] * 9, rel=1e-9)
    assert Flow(time_shift=shift).sampling_levels(Sampling("heun", 10)) == flow.sampling_levels(Sampling("heun", 10))


def test_the_sampling_time_of_a_guidance_schedule_is_the_unshifted_one():
    flow = Flow(time_shift=3.0)
    halfway = flow.sampling_levels(Sampling("heun", 10))[5]
    guided = Guided(None, 4.0, 10, schedule="power_cosine", power=4.0, noise_share=flow.noise_share)
    plain = Guided(None, 4.0, 10, schedule="power_cosine", power=4.0, noise_share=Flow().noise_share)
    assert guided.scale_at(halfway) == pytest.approx(plain.scale_at(0.5)) and halfway > 0.7


@pytest.mark.parametrize("resolution, channels, shift", [(16, 768, 6.928203230275509), (32, 4, 1.0), (256, 3, 6.928203230275509), (8, 1, 0.125)])
def test_auto_follows_from_the_inputs_shape(values, resolution, channels, shift):
    values["formulation"] |= {"time_shift": "auto"}
    values["data"] |= {"resolution": resolution, "channels": channels}
    config = resolve(values, "test")
    assert config.formulation.time_shift == pytest.approx(shift) == make_objective(config).formulation.time_shift
    values["formulation"] |= {"time_shift": config.formulation.time_shift}
    assert resolve(values, "test") == config and resolve(config.model_dump(mode="json"), "test").science_hash() == config.science_hash()
    values["formulation"] = {"name": "flow"}
    assert (resolve(values, "test").science_hash() == config.science_hash()) == (shift == 1)


def test_passports_state_it_where_it_is_not_one():
    plain, more = FlowConfig(name="flow"), FlowConfig(name="flow", time_shift=3.0)
    assert Sampling("heun", 8).options(plain) == {} and Sampling("heun", 8).options(more) == {"time_shift": 3.0}
    assert "time_shift" not in plain.stated() and plain.stated().keys() == {"interpolant", "t_distribution", "logit_mean", "logit_std", "time_scale"}
    assert more.stated() == plain.stated() | {"time_shift": 3.0}


@pytest.mark.parametrize("formulation, words", [
    ({"name": "flow", "time_shift": 0}, "'formulation.time_shift' is 0: should be greater than 0"),
    ({"name": "flow", "time_shift": "automatic"}, "'formulation.time_shift' is 'automatic'.*'auto'"),
    ({"name": "edm", "time_shift": 2.0}, "'formulation.time_shift' for formulation edm; it is an option of flow")])
def test_what_makes_no_sense_is_refused(values, formulation, words):
    values["formulation"] = formulation
    with pytest.raises(UserError, match=words):
        resolve(values, "test")


def test_its_inverse():
    levels = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(shifted(shifted(levels, 3.0), 1 / 3.0), levels)
