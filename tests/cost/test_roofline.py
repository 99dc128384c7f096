"""The least time of a step: exact FLOPs, bytes by hand, and no published loop that is faster."""

import pytest

from ditscale.config import resolve
from ditscale.cost.communication import Sharding
from ditscale.cost.hardware import MEMORY_BANDWIDTH, named_machine
from ditscale.cost.roofline import ATTENTION, OPTIMIZER, PRODUCTS, Roofline, bound_of, model_operations, roofline, update_operations
from ditscale.cost.runs import run_card
from ditscale.cost.throughput import PEERS_REACH, step_forecast
from ditscale.models.blocks import DESIGNS
from ditscale.models.macs import make_backbone, plain_card
from ditscale.models.sizes import parse_model_name


def backbone(name="DiT-XL/2", block="adaln_zero"):
    return make_backbone(parse_model_name(name), resolution=32, channels=4, classes=1000, block=block)


@pytest.fixture
def config(values):
    def make(objective="baseline", name="DiT-XL/2", **resources):
        values["model"]["name"], values["objective"] = name, {"name": objective}
        values["data"] |= {"resolution": 32, "channels": 4}
        values["train"] |= {"global_batch": 256, "images": 2560, "checkpoint_every_images": 2560, "precision": "bf16"}
        values["resources"] = {"accelerators_per_run": 8, "micro_batch": 32, **resources}
        return resolve(values, "test")
    return make


@pytest.mark.parametrize("block", DESIGNS)
def test_flops_are_the_cards(block):
    model = backbone(block=block)
    trained, forward = (sum(one.flops for one in model_operations(model, 5, "bf16", backward)) for backward in (True, False))
    assert (trained, forward) == (6 * 5 * plain_card(model).macs, 2 * 5 * plain_card(model).macs)


@pytest.mark.parametrize("block", DESIGNS)
def test_switched_backbones(block):
    """FLOPs are the card's; value residual moves the first block's values to each later one, and sums of gradients back."""
    facts = {"resolution": 32, "channels": 4, "classes": 1000, "block": block}
    name, some = parse_model_name("DiT-B/2"), {"mlp": "swiglu", "positions": "rope", "norm": "rms", "patch_bottleneck": 8}
    plain, mixed = make_backbone(name, **facts, **some), make_backbone(name, **facts, **some, value_residual=True)
    assert sum(one.flops for one in model_operations(plain, 5, "bf16")) == 6 * 5 * plain_card(plain).macs
    moved = [sum(one.bytes for one in model_operations(one, 5, "bf16", backward)) for one in (plain, mixed) for backward in (False, True)]
    tokens = 5 * (256 + plain.added_tokens)
    assert moved[2] - moved[0] == 11 * tokens * 768 * 2 and moved[3] - moved[1] == 3 * 11 * tokens * 768 * 2


@pytest.mark.parametrize("objective", ["baseline", "masked", "mdt", "discriminative", "tread", "sprint"])
def test_a_run_computes_its_flops_teacher_included(config, objective):
    run = config(objective)
    bound = roofline(run, named_machine("H100:8"))
    assert sum(kind.flops for kind in bound.kinds) == pytest.approx(32 * run_card(run).train_flops_per_image, rel=1e-12)
    assert [kind.name for kind in bound.kinds if kind.name == "teacher"] == (["teacher"] if objective == "discriminative" else [])


def test_bytes_by_hand():
    """One block of width 64 on 2 images of 4 tokens, in bf16: four products, a modulation, attention; the ends apart."""
    model = make_backbone(parse_model_name("DiT-1x64/2"), resolution=4, channels=1, classes=10)
    found = bound_of(list(model_operations(model, 2, "bf16", backward=False)), named_machine("A100"))
    moved = {kind.name: kind.bytes for kind in found}
    product = lambda m, k, n: 2 * (m * k + k * n + m * n)
    blocks = sum(product(8, k, n) for k, n in ((64, 192), (64, 64), (64, 256), (256, 64))) + product(2, 64, 6 * 64)
    ends = product(8, 4, 64) + product(2, 256, 64) + product(2, 64, 64) + product(8, 64, 8) + product(2, 64, 128)
    assert moved[PRODUCTS] == blocks + ends and moved[ATTENTION] == 2 * 4 * 8 * 64
    [optimizer] = [one for one in update_operations(1000, "bf16", state_bytes=8, averages=1) if one.kind == OPTIMIZER]
    assert optimizer.bytes == 1000 * (2 + 2 + 4 + 4 + 8 + 8 + 2)               # the gradient twice, masters and moments, weights


def test_what_limits_it():
    """Products of a wide model are limited by computing; one image at a time by fetching the weights; a slow network by itself."""
    machine = named_machine("H100:8")
    assert Roofline(bound_of(list(model_operations(backbone(), 128, "bf16")), machine)).limit == "compute"
    alone = [*model_operations(backbone("DiT-XL/8"), 1, "bf16"), *update_operations(675e6, "bf16", state_bytes=8, averages=1)]
    assert Roofline(bound_of(alone, machine)).limit == "memory"


def test_recomputing_costs_a_forward_of_the_blocks_and_a_slow_network_all(config):
    plain, recomputed = (roofline(config(checkpoint_activations=again), named_machine("H100:8")) for again in (False, True))
    assert 1.30 < sum(kind.flops for kind in recomputed.kinds) / sum(kind.flops for kind in plain.kinds) < 1.334
    many = config(accelerators_per_run=64, micro_batch=1)
    tight = roofline(many, named_machine("L40S:64"), Sharding(2))
    assert tight.limit == "network" and tight.bound_seconds > tight.device_seconds


def test_expected_is_the_bound_at_the_share_that_peers_reach(config):
    run, machine = config(), named_machine("H100:8")
    step = step_forecast(run, machine, Sharding(1))
    assert step.compute_seconds == pytest.approx(roofline(run, machine, Sharding(1)).device_seconds / PEERS_REACH)
    assert step.roofline.bound_seconds < step.seconds and all(named_machine(name).memory_bandwidth for name in MEMORY_BANDWIDTH)
    assert named_machine("h100 pcie").peak_flops == 756e12 and named_machine("h100 pcie").memory_bandwidth == 2.0e12


def test_no_published_loop_is_faster(benchmark_module):
    peers = benchmark_module("peers")
    found = peers.peers()
    named = " ".join(peer.name for peer in found)
    assert all(name in named for name in ("fast-DiT", "U-ViT", "MaskDiT", "REPA", "MicroDiT", "SR-DiT", "LightningDiT", "DiT-XL/2, its paper"))
    assert len(found) == 27 and all(0 < peer.reached < 0.6 for peer in found)
    assert peers.reached_in_half(found) == pytest.approx(PEERS_REACH, abs=0.005)
    ratios = [peer.memory_ratio for peer in found if peer.memory]
    assert len(ratios) == 8 and all(0.85 < ratio < 1.15 for ratio in ratios)


def test_the_page_has_the_table(benchmark_module, repository):
    peers = benchmark_module("peers")
    assert peers.markdown(peers.peers()) in (repository / "docs" / "roofline.md").read_text()
