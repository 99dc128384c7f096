"""Muon at every ZeRO stage and number of ranks, against a plain loop and torch's own; its state, its rates, what it refuses."""

import math
import re

import pytest
import torch
from safetensors.torch import load_file

from ditscale import randomness
from ditscale.data.loader import StreamLoader
from ditscale.errors import UserError
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.rundir import read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.coordinate_check import measure, slopes
from ditscale.training.loop import train
from ditscale.training.muon import SCALES, newton_schulz
from ditscale.training.optimizers import Muon
from ditscale.training.zero.matrices import Unsharded
from ditscale.training.zero.strategy import deepspeed_config

pytestmark = pytest.mark.usefixtures("in_repository")

LR, ADAMW_LR, DECAY, CLIP, BATCH, STEPS = 2e-3, 1e-3, 0.1, 0.1, 64, 5
SETTINGS = {"model.name": "DiT-2x64/4", "train.precision": "fp32", "train.images": BATCH * STEPS, "train.global_batch": BATCH,
            "train.grad_clip": CLIP, "train.checkpoint_every_images": BATCH * STEPS, "train.weight_decay": DECAY, "train.lr": LR,
            "train.warmup_images": 0, "train.ema_decay": 0.5, "train.optimizer": {"name": "muon", "adamw_lr": ADAMW_LR}}
BY_MUON = re.compile(r"blocks\.\d\.(attn|mlp)\.(qkv|proj|fc[12])\.weight")
NAMES = {"blocks.0.attn.qkv.weight": (96, 32), "blocks.0.mlp.fc1.weight": (128, 32), "blocks.0.mlp.fc2.weight": (32, 128),
         "blocks.0.adaLN_modulation.1.weight": (192, 32), "final_layer.linear.weight": (8, 32), "blocks.0.mlp.fc1.bias": (128,)}


def at_stage(number, **more):
    return {**SETTINGS, "resources.deepspeed": f"zero{number}", **more}


def losses(run):
    return [line["loss/generative"] for line in read_lines(run.metrics)]


def saved(run, name="masters"):
    return load_file(list_checkpoints(run)[-1] / f"{name}.safetensors")


def orthogonal(update):
    """Newton-Schulz of one matrix, as it is written down."""
    x = update / max(update.norm().item(), 1e-7)
    x = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x if update.shape[0] <= update.shape[1] else x.T


def plain(config):
    """Losses and weights of a plain loop: clip, then Muon by name with q, k and v apart, AdamW for the rest."""
    objective, model, found = make_objective(config), build_model(config), []
    named = dict(model.named_parameters())
    adamw = torch.optim.AdamW([p for name, p in named.items() if not BY_MUON.fullmatch(name)], lr=ADAMW_LR, weight_decay=DECAY, fused=True)
    whole = {name: (p, torch.zeros_like(p)) for name, p in named.items() if BY_MUON.fullmatch(name)}
    for images, labels, positions in StreamLoader(config.data.path, seed=config.seed, global_batch=BATCH, micro_batch=BATCH,
                                                 end_images=config.train.images, backend="mmap"):
        draws = randomness.draw(config.seed, positions, objective.streams)
        loss = objective(model, CleanBatch(images.float() / 127.5 - 1, labels), draws).losses["generative"]
        model.zero_grad()
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(named.values(), CLIP) > CLIP
        adamw.step()
        with torch.no_grad():
            for name, (p, momentum) in whole.items():
                momentum.mul_(0.95).add_(p.grad, alpha=0.05)
                update = 0.95 * momentum + 0.05 * p.grad
                parts = update.chunk(3) if "qkv" in name else [update]
                p.mul_(1 - LR * DECAY).sub_(torch.cat([LR * 0.2 * math.sqrt(max(part.shape)) * orthogonal(part) for part in parts]))
        found.append(loss.item())
    return found, {name: p.detach() for name, p in named.items()}


def assert_same(run, expected, weights, where):
    assert losses(run) == pytest.approx(expected, abs=2e-6), where
    masters = saved(run)
    assert max((masters[name] - p).abs().max().item() for name, p in weights.items()) < 1e-6, where


def test_every_stage_and_two_ranks_equal_a_plain_loop(make_run, world, on_ranks):
    for number in range(4):
        config, run = make_run(f"stage {number}", at_stage(number))
        train(config, run, world)
        if not number:
            expected, weights = plain(config)
            assert expected[-1] < expected[0] - 0.01
        assert_same(run, expected, weights, f"stage {number}")
    state = saved(run, "optimizer")
    for name in weights:
        kinds = ("momentum_buffer",) if BY_MUON.fullmatch(name) else ("exp_avg", "exp_avg_sq")
        assert {key.split(".")[0] for key in state if key.endswith(f".{name}")} == set(kinds), name
    ranks = {number: make_run(f"ranks {number}", at_stage(number, **{"resources.accelerators_per_run": 2}))[1] for number in range(4)}
    on_ranks(2, *ranks.values())
    for number, run in ranks.items():
        assert_same(run, expected, weights, f"stage {number} on two ranks")


@pytest.mark.slow
def test_four_ranks_equal_a_plain_loop(make_run, on_ranks):
    runs = {number: make_run(f"ranks {number}", at_stage(number, **{"resources.accelerators_per_run": 4})) for number in (1, 2, 3)}
    on_ranks(4, *(run for _, run in runs.values()))
    expected, weights = plain(runs[1][0])
    for number, (_, run) in runs.items():
        assert_same(run, expected, weights, f"stage {number} on four ranks")


@pytest.mark.parametrize("number", [1, 3])
def test_stopped_and_resumed_is_bit_for_bit_the_same(make_run, world, number):
    config, one = make_run("one", at_stage(number))
    assert train(config, one, world)
    config, parts = make_run("parts", at_stage(number))
    calls = iter(range(1, 100))
    assert not train(config, parts, world, stop=lambda: next(calls) >= 3)
    assert train(config, parts, world) and losses(parts) == losses(one)
    for name in ("masters", "optimizer", "ema"):
        for key, value in saved(one, name).items():
            assert torch.equal(value, saved(parts, name)[key]), key


@pytest.mark.parametrize("shape, share, most", [((64, 256), 0.0, 1.14), ((384, 1536), 0.0, 1.14), ((96, 96), 0.1, 1.21)])
def test_newton_schulz_moves_singular_values_near_one(shape, share, most):
    """All of rectangular matrices; of square ones all but the smallest, which were too small for five steps."""
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(newton_schulz(x, 5))
    assert values.quantile(share) > 0.68 and values.max() < most


@pytest.fixture
def made(make_run):
    """``made(**options)``: Muon on the parameters NAMES, and the parameters."""
    def make(dtype=torch.float32, **options):
        config, _ = make_run("settings", {**SETTINGS, "train.optimizer": {"name": "muon", **options}})
        generator = torch.Generator().manual_seed(0)
        named = {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in NAMES.items()}
        chosen = Muon(name="muon", **options)
        optimizer = chosen.build(chosen.groups(named, {}, config.train), config.train)
        chosen.bind(optimizer, Unsharded(named))
        optimizer.dtype = dtype
        for group in optimizer.param_groups:
            group["lr"] = LR * group["lr_multiplier"]
        return optimizer, named
    return make


def give_gradients(*models):
    generator = torch.Generator().manual_seed(1)
    for several in zip(*(named.values() for named in models), strict=True):
        grad = torch.randn(several[0].shape, generator=generator)
        for p in several:
            p.grad = grad.clone()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon is there from torch 2.9 on")
@pytest.mark.parametrize("scale, adjust", [("original", "original"), ("match_rms", "match_rms_adamw"), ("spectral", "spectral_unclamped")])
def test_equals_torchs_own(made, scale, adjust):
    """Torch computes the products in bf16; so does this here. AdamW's parameters have the same bits."""
    try:
        torch.optim.Muon([torch.nn.Parameter(torch.zeros(2, 2))], adjust_lr_fn=adjust)
    except ValueError:
        pytest.skip(f"this torch has no adjust_lr_fn {adjust}")
    optimizer, named = made(torch.bfloat16, scale=scale, qkv="whole")
    theirs = {name: torch.nn.Parameter(p.detach().clone()) for name, p in named.items()}
    muon = torch.optim.Muon([p for name, p in theirs.items() if BY_MUON.fullmatch(name)], lr=LR, weight_decay=DECAY, adjust_lr_fn=adjust)
    adamw = torch.optim.AdamW([p for name, p in theirs.items() if not BY_MUON.fullmatch(name)], lr=LR, weight_decay=DECAY, fused=True)
    for _ in range(3):
        give_gradients(named, theirs)
        optimizer.step()
        muon.step()
        adamw.step()
    for name, p in named.items():
        assert torch.allclose(p, theirs[name], rtol=1e-6, atol=1e-6) if BY_MUON.fullmatch(name) else torch.equal(p, theirs[name]), name


def test_each_option_moves_the_parameters_it_names(made):
    def step_rms(name, **options):
        optimizer, named = made(**options)
        before = named[name].detach().clone()
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        give_gradients(named)
        optimizer.step()
        return (named[name] - before).square().mean().sqrt().item() / LR

    fc1, last, modulation, qkv = (f"{name}.weight" for name in ("blocks.0.mlp.fc1", "final_layer.linear", "blocks.0.adaLN_modulation.1",
                                                               "blocks.0.attn.qkv"))
    near = 0.85 / math.sqrt(128)                                               # RMS of an orthogonal 128 x 32 matrix, to 10 %
    for scale, rule in SCALES.items():
        assert step_rms(fc1, scale=scale) == pytest.approx(near * rule(128, 32), rel=0.1)
    assert step_rms(fc1, scale="match_rms") == pytest.approx(0.2 * 0.85, rel=0.1)
    assert step_rms(last) == pytest.approx(1, rel=0.01) and step_rms(last, adamw_lr=LR / 4) == pytest.approx(0.25, rel=0.01)  # AdamW's first step
    assert step_rms(last, last_layer="muon") < 0.2 and step_rms(modulation, modulation="muon") < 0.2 and step_rms(modulation) > 0.9
    assert step_rms(qkv, scale="original") != pytest.approx(step_rms(qkv, scale="original", qkv="whole"), rel=0.05)
    assert step_rms(fc1, nesterov=False) != step_rms(fc1)


def test_a_gradient_that_is_not_finite_changes_nothing(made):
    optimizer, named = made()
    give_gradients(named)
    optimizer.step()
    weights = {name: p.detach().clone() for name, p in named.items()}
    states = [{kind: value.clone() for kind, value in optimizer.state[p].items()} for p in named.values()]
    give_gradients(named)
    for p in named.values():
        p.grad.view(-1)[3], p.grad.view(-1)[4] = math.nan, math.inf
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), torch.tensor(math.nan)
    optimizer.step()
    assert all(torch.equal(p, weights[name]) for name, p in named.items())
    for p, before in zip(named.values(), states, strict=True):
        assert all(torch.equal(optimizer.state[p][kind], value) for kind, value in before.items())


def test_a_skipped_first_step_leaves_the_state_empty(make_run, world, poison):
    poison(1)
    config, run = make_run(changes={**at_stage(1), "train.images": BATCH, "train.checkpoint_every_images": BATCH, "resources.skip_limit": 5})
    train(config, run, world)
    assert read_lines(run.metrics)[-1]["skipped_steps"] == 1
    assert not any(value.any() for value in saved(run, "optimizer").values())
    assert all(torch.equal(saved(run)[name], p) for name, p in build_model(config).named_parameters())


def test_rates_under_a_parametrization(make_run):
    """Matrices keep their rate at any width; AdamW's have muP's. With clipping the last layer's inputs are divided by m, so its rate is m times."""
    mup = {**SETTINGS, "model": {"name": "DiT-2x64x2/4", "parametrization": "mup", "base_width": 32}}
    config, _ = make_run("mup", {**mup, "train.optimizer": {"name": "muon", "scale": "spectral", "last_layer": "muon"}})
    model = build_model(config)
    named = dict(model.named_parameters())
    names = {p: name for name, p in named.items()}
    rates = {names[p]: (group["lr_multiplier"], group["weight_decay"])
             for group in config.train.optimizer.groups(named, model.scales, config.train) for p in group["params"]}
    assert rates["blocks.0.mlp.fc1.weight"] == (1, DECAY) and rates["blocks.0.adaLN_modulation.1.weight"] == (0.5, 2 * DECAY)
    assert rates["final_layer.linear.weight"] == (2, DECAY / 2) and rates["x_embedder.proj.weight"] == (1, DECAY)


def test_coordinates_under_mup_do_not_follow_the_width(make_run):
    config, _ = make_run(changes={
        "model": {"name": "DiT-2x64/2", "parametrization": "mup", "base_width": 64}, "train.precision": "fp32", "train.global_batch": 32,
        "train.lr": 2e-2, "train.optimizer": {"name": "muon", "scale": "spectral", "adamw_lr": 2e-3}, "train.grad_clip": 0.0})
    found = {one.layer: one.slope for one in slopes(measure(config, (64, 128, 256), seeds=1, steps=5))}
    assert max(abs(slope) for slope in found.values()) < 0.15


@pytest.mark.parametrize("changes, words", [
    ({"train.optimizer": {"name": "muon", "scale": "rms"}}, "'train.optimizer.scale' is 'rms'"),
    ({"train.optimizer": {"name": "muon", "momentum": 1.0}}, "'train.optimizer.momentum' is 1.0"),
    ({"train.optimizer": {"name": "muon", "ns_steps": 0}}, "'train.optimizer.ns_steps' is 0"),
    ({"train.optimizer": {"name": "muon", "qkv": "three"}}, "'train.optimizer.qkv' is 'three'"),
    ({"train.optimizer": {"name": "muon"}, "model.parametrization": "mup", "model.base_width": 32},
     "model.parametrization mup with train.optimizer.scale match_rms: the best rate would follow the width; use scale spectral")])
def test_what_is_wrong_is_said(make_run, changes, words):
    with pytest.raises(UserError) as said:
        make_run(changes=changes)
    assert words in str(said.value) and "\n" not in str(said.value)


def test_strategies_that_are_refused(make_run, tmp_path):
    config, _ = make_run("offload", at_stage("2_offload"))
    with pytest.raises(UserError, match="asks for offload_optimizer: muon's matrix products would run on the host; use a strategy without"):
        deepspeed_config(config, 1)
    own = tmp_path / "own.json"
    own.write_text('{"zero_optimization": {"stage": 1}, "optimizer": {"type": "Muon", "params": {"lr": 0.002}}}')
    for optimizer in ("adamw", "muon"):
        config, _ = make_run(optimizer, {**SETTINGS, "train.optimizer": {"name": optimizer}, "resources.deepspeed": str(own)})
        with pytest.raises(UserError, match="has 'optimizer' Muon: DeepSpeed's takes the modulation and the last layer too"):
            deepspeed_config(config, 1)
