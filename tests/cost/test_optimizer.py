"""What an optimizer that computes with whole matrices costs: FLOPs and state, from closed forms of the model's matrices."""

from collections import Counter

import pytest

from ditscale.config import resolve
from ditscale.cost.hardware import named_machine
from ditscale.cost.roofline import OPTIMIZER, roofline
from ditscale.cost.runs import optimizer_flops, optimizer_state_bytes, run_card, run_memory_card, training_flops
from ditscale.cost.shares import cost_shares
from ditscale.models.blocks import DESIGNS
from ditscale.models.matrices import kind_of
from ditscale.objectives.from_config import build_model
from ditscale.objectives.variant import backbone_of

MUON = {"name": "muon"}
VARIANTS = ({"name": "baseline"}, {"name": "masked"}, {"name": "masked", "mask_ratio": 0.0, "decoder_depth": 0},
            {"name": "mdt", "decoder_depth": 1, "long_skips": True}, {"name": "mdt", "decoder_depth": 2}, {"name": "discriminative"},
            {"name": "tread"}, {"name": "sprint"})


def config_of(values, model, batch=256, optimizer=MUON, block="adaln_zero", objective={"name": "baseline"}, **switches):
    data = {**values["data"], "resolution": 32, "channels": 4, "classes": 1000}
    train = {**values["train"], "images": 10 * batch, "global_batch": batch, "checkpoint_every_images": 10 * batch, "optimizer": optimizer}
    return resolve({**values, "data": data, "train": train, "evaluation": None, "objective": objective, "model": {"name": model, "block": block, **switches}},
                   "test")


@pytest.mark.parametrize("objective", VARIANTS, ids=lambda one: "-".join(map(str, one.values())))
@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_the_closed_form_has_the_models_matrices(values, objective, block, mlp):
    config = config_of(values, "DiT-3x64/8", block=block, objective=objective, mlp=mlp)
    found = Counter((kind, *p.shape) for name, p in build_model(config).named_parameters() if (kind := kind_of(name)))
    stated: Counter = Counter()
    for one in config.objective.matrices(backbone_of(config)):
        stated[one.kind, one.rows, one.columns] += one.count
    assert stated == found


@pytest.mark.parametrize("optimizer", [MUON, {**MUON, "modulation": "muon", "last_layer": "muon", "qkv": "whole"}], ids=["default", "all"])
def test_the_state_is_counted_by_parameter(values, optimizer):
    config = config_of(values, "DiT-2x64/8", optimizer=optimizer)
    named, chosen = dict(build_model(config).named_parameters()), config.train.optimizer
    held = sum(4 * p.numel() * len(chosen.states_of(name)) for name, p in named.items())
    assert optimizer_state_bytes(config) * run_card(config).parameters == held
    adamw = config_of(values, "DiT-2x64/8", optimizer={"name": "adamw"})
    cards = [run_memory_card(one, stage=1, offload=False, micro_batch=8).states for one in (adamw, config)]
    assert cards[0] - cards[1] == 8 * run_card(config).parameters - held > 0


def test_gate_and_up_are_two_matrices(values):
    """Blocks of 64: 4 square matrices, and gate, up and fc2 of 64 x 168; 10 r r c + 5 r r r MACs each."""
    config = config_of(values, "DiT-2x64/8", mlp="swiglu")
    assert optimizer_flops(config) == 2 * 2 * (4 * 15 * 64**3 + 3 * (10 * 64**2 * 168 + 5 * 64**3))
    whole = config_of(values, "DiT-2x64/8", mlp="swiglu", optimizer={**MUON, "qkv": "whole"})
    assert optimizer_flops(whole) == 2 * 2 * (15 * 64**3 + 10 * 64**2 * 192 + 5 * 64**3 + 10 * 64**2 * (336 + 168) + 2 * 5 * 64**3)


def test_a_step_of_xl_2_costs_7_percent_at_batch_256(values):
    """28 blocks of 4 matrices 1152 x 1152 and 2 of 1152 x 4608; a step takes 10 r r c + 5 r r r MACs of an r x c matrix."""
    config, adamw = config_of(values, "DiT-XL/2"), config_of(values, "DiT-XL/2", optimizer={"name": "adamw"})
    assert optimizer_flops(config) == 2 * 28 * (4 * 15 + 2 * 45) * 1152**3
    for images in (0, 255, 256, 2560):
        assert training_flops(config, images) - training_flops(adamw, images) == images // 256 * optimizer_flops(config)
        assert cost_shares(config, images).training == training_flops(config, images)
    assert training_flops(config, 2560) / training_flops(adamw, 2560) == pytest.approx(1.0705, abs=1e-4)
    assert optimizer_flops(config) / 1024 / run_card(config).train_flops_per_image < 0.02
    fewer, whole = (config_of(values, "DiT-XL/2", optimizer={**MUON, **more}) for more in ({"ns_steps": 3}, {"qkv": "whole"}))
    assert optimizer_flops(fewer) * 5 == 3 * optimizer_flops(config)
    assert optimizer_flops(whole) == 2 * 28 * (35 + 15 + 2 * 45) * 1152**3


def test_the_roofline_has_it_with_the_optimizer(values):
    config, adamw = config_of(values, "DiT-XL/2"), config_of(values, "DiT-XL/2", optimizer={"name": "adamw"})
    machine = named_machine("H100:8")
    kinds = [{kind.name: kind for kind in roofline(one, machine).kinds} for one in (config, adamw)]
    assert kinds[0][OPTIMIZER].flops == optimizer_flops(config) and kinds[1][OPTIMIZER].flops == 0
    for name in kinds[1].keys() - {OPTIMIZER}:
        assert kinds[0][name].flops == pytest.approx(kinds[1][name].flops, rel=1e-12)
