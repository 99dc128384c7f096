"""Closed forms against the paper's table and against PyTorch's own counter."""

import pytest
import torch

from ditscale.models.dit import create_model
from ditscale.models.macs import make_backbone, plain_card
from ditscale.models.sizes import parse_model_name

# DiT paper, Table 4 (its "Gflops" are GMACs) and the exact parameter counts of the released code (trainable).
PAPER = {"S/8": 0.36, "S/4": 1.41, "S/2": 6.06, "B/8": 1.42, "B/4": 5.56, "B/2": 23.01, "L/8": 5.01, "L/4": 19.70, "L/2": 80.71,
         "XL/8": 7.39, "XL/4": 29.05, "XL/2": 118.64}
PARAMETERS = {"S/8": 33_142_016, "S/4": 32_920_448, "S/2": 32_865_056, "B/8": 130_869_248, "B/4": 130_426_496, "B/2": 130_315_808,
              "L/8": 458_578_432, "L/4": 457_988_224, "L/2": 457_840_672, "XL/8": 675_664_640, "XL/4": 675_000_704, "XL/2": 674_834_720}


def card(name, **options):
    return plain_card(make_backbone(parse_model_name(f"DiT-{name}"), **{"resolution": 32, "channels": 4, "classes": 1000, **options}))


@pytest.mark.parametrize("name", PAPER)
def test_paper_gflops(name):
    assert card(name).macs / 1e9 == pytest.approx(PAPER[name], rel=6e-3, abs=5e-3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    assert card(name).parameters == PARAMETERS[name]


# DiT paper, Table 4 and Sec. 4: the four block designs at XL/2 (Gflops as printed, millions of parameters).
DESIGNS = {"in_context": (119.37, 449), "cross_attention": (137.62, 598), "adaln": (118.56, 600), "adaln_zero": (118.64, 675)}


@pytest.mark.parametrize("block", DESIGNS)
def test_paper_block_designs(block):
    gflops, millions = DESIGNS[block]
    closed = card("XL/2", block=block)
    assert closed.macs / 1e9 == pytest.approx(gflops, rel=2e-4)
    assert round(closed.parameters / 1e6) == millions


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("name", ["atto/8", "nano/2", "S/4", "XL/2"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_parameters_of_real_modules(name, block, qk_norm):
    with torch.device("meta"):
        model = create_model(f"DiT-{name}", input_size=32, in_channels=4, block=block, qk_norm=qk_norm)
    assert sum(p.numel() for p in model.parameters()) == card(name, block=block, qk_norm=qk_norm).parameters


def test_training_flops_of_the_longest_run():
    """XL/2, 7M steps of 256 images: 6.38e11 "Gflops" in the paper's unit, 1.2754e21 FLOPs."""
    assert card("XL/2").train_flops_per_image * 7e6 * 256 == pytest.approx(1.2754e21, rel=1e-4)


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("name", ["atto/8", "femto/4", "nano/2"])
def test_macs_are_half_the_counted_flops(name, block, counted_flops):
    model = create_model(f"DiT-{name}", input_size=8, in_channels=1, num_classes=10, learn_sigma=False, block=block)
    flops = counted_flops(lambda: model(torch.zeros(3, 1, 8, 8), torch.zeros(3), torch.zeros(3, dtype=torch.long)))
    closed = card(name, resolution=8, channels=1, classes=10, learn_sigma=False, block=block)
    assert flops == 3 * closed.flops


@pytest.mark.parametrize("block", DESIGNS)
def test_backward_takes_twice_the_forward(block, counted_flops):
    """Exactly so for every product but those of the two inputs, which need no gradient."""
    model = create_model("DiT-femto/4", input_size=8, in_channels=1, num_classes=10, learn_sigma=False, block=block)
    flops = counted_flops(lambda: model(torch.zeros(3, 1, 8, 8), torch.zeros(3), torch.zeros(3, dtype=torch.long)).sum().backward())
    closed = card("femto/4", resolution=8, channels=1, classes=10, learn_sigma=False, block=block)
    inputs = closed.macs_by_part["patchify"] + 256 * 64                         # pixels and the timestep's sinusoid
    assert flops == 3 * (closed.train_flops_per_image - 2 * inputs)


def test_golden_macs_of_the_twelve():
    """Pinned to the last multiply-add."""
    assert {name: card(name).macs for name in PAPER} == GOLDEN_MACS


GOLDEN_MACS = {"S/8": 357974016, "S/4": 1412579328, "S/2": 6055673856, "B/8": 1417543680, "B/4": 5565186048, "B/2": 23005102080,
               "L/8": 5011406848, "L/4": 19695665152, "L/2": 80697622528, "XL/8": 7392411648, "XL/4": 29043671040,
               "XL/2": 118621421568}
