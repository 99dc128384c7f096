"""Auxiliary losses in the compute card: PyTorch's own counter on real steps, parameters, shares, and losses that end."""

import copy

import pytest
import torch

from ditscale.config import resolve
from ditscale.cost.hardware import named_machine
from ditscale.cost.roofline import roofline
from ditscale.cost.runs import run_card, run_memory_card, trained_cards, training_flops
from ditscale.cost.shares import cost_shares
from ditscale.models.blocks import DESIGNS
from ditscale.models.macs import FREQUENCIES
from ditscale.models.sizes import parse_model_name
from ditscale.objectives.auxiliary import AUXILIARY
from ditscale.objectives.auxiliary.repa.encoder import make_encoder
from ditscale.objectives.from_config import build_model

IMAGES = 4                                                                     # of a counted step
DIGITS_CNN = 1_787_904                                                         # MACs of the demo's CNN before its pooling
CASES = {"dispersive": [{"name": "dispersive", "group": 2}], "contrastive": [{"name": "contrastive", "group": 2}], "sra": ["sra"],
         "sra 4 of 5": [{"name": "sra", "block": 4, "teacher_block": 5}], "sra2": ["sra2"], "sra2 of 2": [{"name": "sra2", "layers": 2, "hidden": 40}],
         "all": [{"name": "dispersive", "group": 4}, {"name": "contrastive", "group": 2}, "sra", "sra2"]}


REPA = {"name": "repa", "feature_width": 64, "hidden": 48, "encoder": "ditscale.evaluation.extractors.feature_maps:digits_cnn"}
# A ViT-B/14 at 224 pixels: 12 blocks of width 768 on 257 tokens, 12 W^2 T + 2 T^2 W MACs each, and its patches.
DINOV2_B = 12 * (12 * 768**2 * 257 + 2 * 257**2 * 768) + 256 * 14 * 14 * 3 * 768


def config_of(values, losses, name="DiT-nano/2", block="adaln_zero", **train):
    values = copy.deepcopy(values)
    values["objective"], values["model"] = {"name": "baseline", "with": losses}, {"name": name, "block": block}
    values["train"] |= train
    return resolve(values, "test")


def test_repa_with_its_encoder(values, digits, counted_flops, real_step):
    """The MACs that the docs give for the demo's encoder are the counter's; and the whole step, twice, as the first one makes the encoder."""
    options = {**REPA, "encoder_path": str(digits / "digits_cnn.safetensors"), "encoder_macs": DIGITS_CNN}
    encoder = make_encoder(options["encoder"], options["encoder_path"], {})
    assert counted_flops(lambda: encoder(torch.zeros(IMAGES, 1, 8, 8))) == IMAGES * 2 * DIGITS_CNN
    config = config_of(values, [options])
    card, step = run_card(config), real_step(config, IMAGES)
    inputs = FREQUENCIES * 128 + card.trained_macs_by_part["patchify"]
    assert card.forward_only_macs_by_part == {"repa_encoder": DIGITS_CNN}
    for _ in range(2):
        assert counted_flops(step) == IMAGES * (card.train_flops_per_image - 2 * inputs)


def test_a_loss_that_ends_is_priced_to_its_end(values):
    """At a number of images within a batch: the batch that starts before it is the last with the loss."""
    config = config_of(values, ["sra2", {**REPA, "encoder_macs": 1000, "stop_images": 200}])
    plain, whole = run_card(config_of(values, ["sra2"])), run_card(config)
    assert whole.train_macs_per_image > plain.train_macs_per_image + 1000
    assert training_flops(config, 640) == 256 * whole.train_flops_per_image + 384 * plain.train_flops_per_image
    assert training_flops(config, 192) == 192 * whole.train_flops_per_image and training_flops(config, 0) == 0
    shares = cost_shares(config, 640)
    assert shares.training == training_flops(config, 640) and shares.teacher == 256 * 2 * 1000


@pytest.mark.parametrize("case, block", [*((case, "adaln_zero") for case in CASES), *(("all", block) for block in DESIGNS)])
def test_a_real_training_step(values, case, block, counted_flops, real_step):
    """Exactly so but for the two inputs of the pass, patches and sinusoid: they need no gradient, and cost 2 and not 3."""
    config = config_of(values, CASES[case], block=block)
    card = run_card(config)
    inputs = FREQUENCIES * parse_model_name("DiT-nano/2").dims.hidden_size + card.trained_macs_by_part["patchify"]
    assert counted_flops(real_step(config, IMAGES)) == IMAGES * (card.train_flops_per_image - 2 * inputs)
    model, plain = build_model(config), run_card(config_of(values, [], block=block))
    assert sum(p.numel() for p in model.parameters()) == card.parameters
    heads = sum(p.numel() for name, p in model.named_parameters() if name.startswith("auxiliary."))
    assert card.inference_parameters == card.parameters - heads == plain.parameters
    assert card.macs_by_part == plain.macs_by_part
    assert {**card.trained_macs_by_part, **plain.trained_macs_by_part} == card.trained_macs_by_part   # each loss is a part of its own


def test_shares_and_totals(values):
    config = config_of(values, CASES["all"])
    plain, card, shares = run_card(config_of(values, [])), run_card(config), cost_shares(config, 640)
    assert shares.training == training_flops(config, 640) == 640 * card.train_flops_per_image
    assert shares.teacher == 640 * 2 * card.forward_only_macs_by_part["sra_teacher"]
    added = sum(card.trained_macs_by_part[name] for name in ("dispersive", "sra", "sra2"))
    assert shares.heads == 640 * 6 * (plain.trained_macs_by_part["head"] + added)


def test_memory_and_roofline_have_the_teacher_and_the_heads(values):
    plain, aligned, sra2 = (config_of(values, losses) for losses in ([], ["sra"], ["sra2"]))
    states = [run_memory_card(config, stage=1, offload=False, micro_batch=64) for config in (plain, aligned, sra2)]
    assert states[1].ema > 2 * states[0].ema and states[2].states > states[0].states and states[2].activations > states[0].activations
    machine = named_machine("H100")
    kinds = [{kind.name: kind for kind in roofline(config, machine).kinds} for config in (plain, aligned, sra2)]
    assert "teacher" in kinds[1] and "teacher" not in kinds[0] and "teacher" not in kinds[2]
    assert kinds[2]["products"].flops > kinds[0]["products"].flops


@pytest.mark.parametrize("name", AUXILIARY)
def test_ratios_at_b_2_are_those_in_the_docs(values, name, repository):
    """Training MACs to the baseline's at DiT-B/2 on latents of 32 x 32 x 4, in the table of docs/methods.md."""
    values["data"] |= {"resolution": 32, "channels": 4, "classes": 1000}
    values |= {"evaluation": None}
    losses = [[name]] if name != "repa" else [[{"name": name, "feature_width": 768, "encoder": "a:b", "encoder_macs": macs}] for macs in (0, DINOV2_B)]
    plain, *found = (run_card(config_of(values, some, "DiT-B/2")).train_macs_per_image for some in ([], *losses))
    cell = "; with DINOv2-B on the fly ".join(f"{one / plain:.4f}" for one in found)
    row = next(line for line in (repository / "docs" / "methods.md").read_text().splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {cell} |" in row


def test_one_card_for_all_steps(values):
    config = config_of(values, CASES["all"])
    assert [images for _, images in trained_cards(config, 640)] == [640]
