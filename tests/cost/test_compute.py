"""Closed forms against the paper's table and against PyTorch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ditscale.cost.compute import compute_card
from ditscale.models.dit import create_model
from ditscale.models.sizes import parse_model_name

# DiT paper, Table 4 (its "Gflops" are GMACs) and the exact parameter counts of the released code (trainable).
PAPER = {"S/8": 0.36, "S/4": 1.41, "S/2": 6.06, "B/8": 1.42, "B/4": 5.56, "B/2": 23.01, "L/8": 5.01, "L/4": 19.70, "L/2": 80.71,
         "XL/8": 7.39, "XL/4": 29.05, "XL/2": 118.64}
PARAMETERS = {"S/2": 32_865_056, "B/2": 130_315_808, "L/2": 457_840_672, "XL/2": 674_834_720}


def card(name, **options):
    return compute_card(parse_model_name(f"DiT-{name}"), **{"resolution": 32, "channels": 4, "classes": 1000, **options})


@pytest.mark.parametrize("name", PAPER)
def test_paper_gflops(name):
    assert card(name).macs / 1e9 == pytest.approx(PAPER[name], rel=6e-3, abs=5e-3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    assert card(name).parameters == PARAMETERS[name]


def test_parameters_of_real_modules():
    for name in ("atto/8", "nano/2", "S/4"):
        with torch.device("meta"):
            model = create_model(f"DiT-{name}", input_size=32, in_channels=4)
        assert sum(p.numel() for p in model.parameters()) == card(name).parameters


def test_training_flops_of_the_longest_run():
    """XL/2, 7M steps of 256 images: 6.38e11 "Gflops" in the paper's unit, 1.2754e21 FLOPs."""
    assert card("XL/2").train_flops_per_image * 7e6 * 256 == pytest.approx(1.2754e21, rel=1e-4)


@pytest.mark.parametrize("name", ["atto/8", "femto/4", "nano/2"])
def test_macs_are_half_the_counted_flops(name):
    model = create_model(f"DiT-{name}", input_size=8, in_channels=1, num_classes=10, learn_sigma=False)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 1, 8, 8), torch.zeros(3), torch.zeros(3, dtype=torch.long))
    closed = card(name, resolution=8, channels=1, classes=10, learn_sigma=False)
    assert counter.get_total_flops() == 3 * 2 * closed.macs
