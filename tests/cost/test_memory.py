"""Memory in closed form: states against DeepSpeed's own estimators, activations against what autograd really keeps."""

import pytest
import torch

from ditscale.cost.memory import GIB, activation_bytes, largest_layer, memory_card, model_states
from ditscale.errors import UserError
from ditscale.models import layers, linear
from ditscale.models.blocks import DESIGNS
from ditscale.models.dit import create_model
from ditscale.models.macs import make_backbone, plain_card
from ditscale.models.sizes import parse_model_name
from ditscale.models.switches import Switches

XL2 = 674_834_720


@pytest.mark.parametrize("per_node, nodes", [(1, 1), (8, 1), (8, 4), (4, 16)])
@pytest.mark.parametrize("offload", [False, True])
def test_deepspeeds_estimators(per_node, nodes, offload):
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2

    facts = {"ranks": per_node * nodes, "ranks_per_node": per_node, "offload": offload}
    host, device = zero2(XL2, per_node, nodes, cpu_offload=offload)
    assert model_states(XL2, stage=2, **facts) == (device, host)
    host, device, _ = zero3(XL2, 32_000_000, per_node, nodes, cpu_offload=offload, cpu_offload_params=offload)
    assert model_states(XL2, stage=3, largest_layer=32_000_000, **facts) == (device, host)


def test_published_figures():
    """2851M parameters on 8 GPUs: offload 5.31 GiB; ZeRO-2 of DiT-XL/2 (with its table) 12.58, 2.67, 1.61 on 1, 8, 32."""
    assert model_states(2_851_000_000, stage=2, ranks=8, offload=True)[0] / GIB == pytest.approx(5.31, abs=0.005)
    for ranks, gib in ((1, 12.58), (8, 2.67), (32, 1.61)):
        assert model_states(675_129_632, stage=2, ranks=ranks)[0] / GIB == pytest.approx(gib, abs=0.006)


def test_stages_share_out_more_and_more():
    sizes = [model_states(XL2, stage=stage, ranks=8, largest_layer=8_000_000)[0] for stage in (0, 1, 2, 3)]
    assert sizes == sorted(sizes, reverse=True)
    alone = [model_states(XL2, stage=stage, ranks=1)[0] for stage in (0, 1, 2)]
    assert alone == [20 * XL2] * 3


def kept_bytes(model, x, t, y):
    """Bytes of all storages that autograd saves, weights and tables apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)              # the tensor keeps the address taken
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x, t, y)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("name", ["femto/2", "nano/4", "tiny/2"])
def test_activations(monkeypatch, block, precision, dtype, name):
    monkeypatch.setattr(linear, "CPU_HAS_BF16_UNITS", True)                     # the path that accelerators take
    monkeypatch.setattr(layers, "attends_in_fp32", lambda x: False)
    model = create_model(f"DiT-{name}", input_size=16, in_channels=4, num_classes=10, block=block).to(dtype)
    measured = kept_bytes(model, torch.randn(4, 4, 16, 16), torch.rand(4), torch.zeros(4, dtype=torch.long)) / 4
    closed = activation_bytes(parse_model_name(f"DiT-{name}"), resolution=16, channels=4, precision=precision, block=block)
    assert closed == pytest.approx(measured, rel=0.01)


SWITCHES = {"norm": "rms", "mlp": "swiglu", "positions": "rope", "value_residual": True, "patch_bottleneck": 6}


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("switches", [{name: value} for name, value in SWITCHES.items()] + [SWITCHES, {"positions": "sincos_rope"}],
                         ids=lambda one: "-".join(map(str, one.values())))
def test_activations_of_switched_backbones(monkeypatch, block, switches):
    """In fp32. PyTorch's RMSNorm on a CPU is not fused: where it is affine it also keeps its result before the gains."""
    monkeypatch.setattr(linear, "CPU_HAS_BF16_UNITS", True)
    name, facts = parse_model_name("DiT-tiny/2"), {"resolution": 16, "channels": 4, "block": block, "precision": "fp32"}
    model = create_model("DiT-tiny/2", input_size=16, in_channels=4, num_classes=10, block=block, **switches)
    measured = kept_bytes(model, torch.randn(4, 4, 16, 16), torch.rand(4), torch.zeros(4, dtype=torch.long)) / 4
    tokens, design = 64, DESIGNS[block]
    if "norm" in switches and not design.modulated:
        measured -= 4 * 192 * (12 * design.norms * (tokens + design.added_tokens) + tokens)
    closed = activation_bytes(name, switches=Switches(**switches), **facts)
    assert closed == pytest.approx(measured, rel=0.005)
    assert closed != activation_bytes(name, **facts)


def test_a_swiglus_first_layer_is_the_largest_of_a_plain_block():
    name = parse_model_name("DiT-B/2")
    assert largest_layer(name, "in_context") == 4 * 768 * 769 and largest_layer(name, "adaln_zero", Switches(mlp="swiglu")) == 6 * 768 * 769
    assert largest_layer(name, "in_context", Switches(mlp="swiglu")) == 2 * 2048 * 769


def test_checkpointing_keeps_block_inputs():
    name = parse_model_name("DiT-XL/2")
    facts = {"resolution": 32, "channels": 4}
    kept, recomputed = (activation_bytes(name, checkpointing=flag, **facts) for flag in (False, True))
    assert recomputed - 27 * 2 * 256 * 1152 < kept / 20


def test_card_adds_up():
    name = parse_model_name("DiT-XL/2")
    parameters = plain_card(make_backbone(name, resolution=32, channels=4, classes=1000)).parameters
    facts = {"parameters": parameters, "resolution": 32, "channels": 4, "stage": 1, "ranks": 8}
    card = memory_card(name, micro_batch=32, **facts)
    assert card.ema == 4 * parameters // 8
    assert card.activations == 32 * activation_bytes(name, resolution=32, channels=4)
    assert card.passing == 2 * parameters + 4 * parameters // 8                 # gradients come as activations go
    assert card.accelerator == card.states + card.ema + card.activations - card.passing
    one_image = memory_card(name, micro_batch=1, **facts)
    assert one_image.accelerator == one_image.states + one_image.ema           # the step is the peak
    accumulates = memory_card(name, micro_batch=32, accumulates=True, **facts)
    assert accumulates.accelerator == card.states + card.ema + card.activations


def test_fp32_states_at_each_stage():
    states = [model_states(1000, stage=stage, ranks=4, precision="fp32", largest_layer=10)[0] for stage in (0, 1, 2, 3)]
    assert states == [16_000, 8_000 + 3_000, 4_000 + 4_000, 80 + 5_000]


@pytest.mark.parametrize("stage, offload, words", [(4, False, "no ZeRO stage 4"), (1, True, "does not offload")])
def test_refused(stage, offload, words):
    with pytest.raises(UserError, match=words):
        model_states(1, stage=stage, ranks=1, offload=offload)
