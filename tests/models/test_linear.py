"""The fast paths of linear layers on a CPU give what PyTorch's own give."""

import pytest
import torch

from ditscale.models import linear
from ditscale.models.blocks import DESIGNS
from ditscale.models.dit import create_model


def test_bf16_products_equal_the_emulated_ones(monkeypatch):
    """On CPUs without bf16 units products are taken in fp32 and rounded: within one bf16 step of PyTorch's own emulation."""
    torch.manual_seed(0)
    layer, x = linear.Linear(64, 48).bfloat16(), torch.randn(32, 64).bfloat16()
    monkeypatch.setattr(linear, "CPU_HAS_BF16_UNITS", False)
    ours = layer(x)
    monkeypatch.setattr(linear, "CPU_HAS_BF16_UNITS", True)
    theirs = layer(x)
    assert ours.dtype is torch.bfloat16
    assert torch.allclose(ours.float(), theirs.float(), rtol=2**-7, atol=2**-8)


def random_model(block: str, **switches):
    model = create_model("DiT-femto/2", seed=0, block=block, input_size=8, in_channels=1, num_classes=10, **switches)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False)


@pytest.mark.parametrize("switches", [{}, {"mlp": "swiglu", "qk_norm": True, "patch_bottleneck": 4}], ids=["standard", "switched"])
@pytest.mark.parametrize("block", DESIGNS)
def test_a_packed_model_gives_the_same_images(block, switches):
    model, (x, t, y) = random_model(block, **switches), (torch.randn(40, 1, 8, 8), torch.rand(40) * 1000, torch.arange(40) % 11)
    expected = model(x, t, y)
    linear.pack(model)
    torch.testing.assert_close(model(x, t, y), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@pytest.mark.skipif(not linear.can_pack(), reason="this PyTorch, or this processor, has no packed linear layers")
def test_a_packed_rows_bits_do_not_depend_on_the_number_of_rows():
    model, (x, t, y) = random_model("adaln_zero"), (torch.randn(40, 1, 8, 8), torch.rand(40) * 1000, torch.arange(40) % 11)
    linear.pack(model)
    whole = model(x, t, y)
    for rows in (2, 3, 5, 16, 33):
        assert torch.equal(model(x[:rows], t[:rows], y[:rows]), whole[:rows]), rows


@pytest.mark.skipif(not linear.can_pack(), reason="this PyTorch, or this processor, has no packed linear layers")
def test_packing_takes_every_linear_layer_and_the_state_dict_keeps_its_keys():
    model = random_model("adaln_zero")
    keys = list(model.state_dict())
    linear.pack(model)
    assert list(model.state_dict()) == keys
    assert all(layer.packed is not None for layer in model.modules() if isinstance(layer, linear.Linear))
