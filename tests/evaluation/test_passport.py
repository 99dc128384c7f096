"""Passports: what moves the samples is in them, and scores that stand keep theirs."""

import hashlib
import json
from dataclasses import asdict, replace

import pytest
import torch

from ditscale.config import resolve
from ditscale.cost.hardware import Machine
from ditscale.cost.runs import run_card
from ditscale.cost.throughput import evaluation_seconds
from ditscale.evaluation.evaluate import Evaluator
from ditscale.training.distributed import World


@pytest.fixture
def evaluator(digits_values):
    def make(formulation, **evaluation):
        digits_values["formulation"] = formulation
        digits_values["evaluation"].update(evaluation)
        return Evaluator(resolve(digits_values, "test"), World(0, 1, torch.device("cpu")))
    return make


def test_old_digests_stand(evaluator):
    """A passport without the newer fields hashes to the same 12 hex as before there were any."""
    passport = evaluator({"name": "flow"}, guidance_scale=1.5).passport
    newer = ("guidance_schedule", "sampler_options", "average", "levels", "normalization", "guide", "selected_on")
    before = {name: value for name, value in asdict(passport).items() if name not in newer}
    assert (passport.guidance_channels, passport.guidance_interval, passport.sampler_options) == ("all", "all", "")
    assert passport.digest() == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:12]
    assert replace(passport, guidance_schedule="power_cosine 4").digest() != passport.digest()


def test_options_that_move_samples_are_in_the_passport(evaluator):
    made = evaluator({"name": "ddpm"}, sampler="ddim", sampling_steps=10, eta=0.5, guidance_scale=4.0, guidance_channels="first3",
                     guidance_interval=[222, 600], guidance_schedule="power_cosine")
    passport = made.passport
    assert (passport.formulation, passport.sampler, passport.nfe, made.maker.forwards) == ("ddpm", "ddim", 10, 14)
    assert (passport.guidance_channels, passport.guidance_interval) == ("first3", "222..600")
    assert (passport.guidance_schedule, passport.sampler_options) == ("power_cosine 4", '{"eta": 0.5}')


def test_the_released_sde_is_in_the_passport(evaluator):
    made = evaluator({"name": "flow", "time_scale": 1.0}, sampler="sde", sampling_steps=9, sde_norm=1.0, sde_last="mean")
    assert json.loads(made.passport.sampler_options) == {"sde_norm": 1.0, "sde_last": "mean"}
    whole = evaluator({"name": "flow"}, sampler="heun", sampling_steps=9, sde_norm=0.5, sde_last="velocity", heun_last="heun")
    assert (whole.passport.nfe, whole.maker.forwards, whole.passport.sampler_options) == (18, 18, '{"heun_last": "heun"}')


def test_edm_states_its_range_of_levels(evaluator):
    options = json.loads(evaluator({"name": "edm", "sigma_max": 40.0}, churn=10.0).passport.sampler_options)
    assert options == {"churn": 10.0, "sigma_min": 0.002, "sigma_max": 40.0, "rho": 7.0}


def test_the_plan_follows_formulation_and_guidance(values):
    machine = Machine("cpu", "test", 1, 1e11)
    values["evaluation"].update(guidance_scale=2.0, sampling_steps=10)
    flow = resolve(values, "x")
    values["formulation"] = {"name": "ddpm"}
    ddpm = resolve(values, "x")
    assert run_card(ddpm).macs_by_part["head"] == 2 * run_card(flow).macs_by_part["head"]
    values["evaluation"]["guidance_interval"] = [0, 300]
    assert evaluation_seconds(resolve(values, "x"), machine, 1) < evaluation_seconds(ddpm, machine, 1)
