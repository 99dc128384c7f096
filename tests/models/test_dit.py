"""The backbone: initial state, layout, bf16."""

import pytest
import torch

from ditscale.errors import UserError
from ditscale.models import layers
from ditscale.models.blocks.modules import modulate
from ditscale.models.dit import create_model

DIGITS = {"input_size": 8, "in_channels": 1, "num_classes": 10, "learn_sigma": False}


def inputs(batch=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, 8, 8, generator=generator), torch.tensor([0.0, 1, 500, 999])[:batch], torch.arange(batch)


def test_output_is_zero_at_first():
    model = create_model("DiT-atto/2", seed=0, **DIGITS)
    assert torch.equal(model(*inputs()), torch.zeros(4, 1, 8, 8))


def test_blocks_start_as_the_identity():
    model = create_model("DiT-atto/2", seed=0, **DIGITS)
    x, c = torch.randn(2, 16, 32), torch.randn(2, 32)
    assert all(torch.equal(block(x, c), x) for block in model.blocks)


def test_seed_fixes_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = create_model("DiT-atto/4", seed=3, **DIGITS).state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = create_model("DiT-atto/4", seed=3, **DIGITS).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = create_model("DiT-atto/4", seed=4, **DIGITS).state_dict()
    assert not torch.equal(first["x_embedder.proj.weight"], other["x_embedder.proj.weight"])


def test_every_parameter_gets_a_gradient():
    model = create_model("DiT-atto/4", seed=0, **DIGITS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model(*inputs()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_unpatchify_inverts_patchify():
    x = torch.randn(2, 3, 8, 8)
    tokens = layers.patchify(x, 2)                                              # channels outermost in each patch
    innermost = tokens.view(2, 16, 3, 2, 2).permute(0, 1, 3, 4, 2).reshape(2, 16, 12)
    assert torch.equal(layers.unpatchify(innermost, 2, 3), x)


def test_patch_embedding_is_the_convolution():
    embed = layers.PatchEmbed(4, 3, 16)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(embed(x), embed.proj(x).flatten(2).transpose(1, 2), atol=1e-6)


def test_position_table_of_the_released_code():
    """The closed form at one token, in float64: first half for the column, second for the row."""
    import math
    table = layers.sincos_position_table(16, 4)[0]
    row, column = 2, 3
    omega = [10000.0 ** (-k / 4) for k in range(4)]
    wanted = [f(position * w) for position in (column, row) for f in (math.sin, math.cos) for w in omega]
    assert torch.allclose(table[row * 4 + column], torch.tensor(wanted, dtype=torch.float32), atol=1e-6)


def test_state_dict_keys_of_the_released_checkpoints():
    keys = set(create_model("DiT-S/2", input_size=32, in_channels=4).state_dict())
    block = {f"blocks.0.{name}.{kind}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
             for kind in ("weight", "bias")}
    rest = {"pos_embed", "y_embedder.embedding_table.weight"} | {
        f"{name}.{kind}" for name in ("x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear",
                                      "final_layer.adaLN_modulation.1") for kind in ("weight", "bias")}
    assert {key for key in keys if not key.startswith("blocks.") or key.startswith("blocks.0.")} == block | rest


@pytest.mark.parametrize("learn_sigma, channels", [(True, 6), (False, 3)])
def test_output_channels(learn_sigma, channels):
    model = create_model("DiT-atto/4", input_size=8, in_channels=3, num_classes=2, learn_sigma=learn_sigma)
    assert model(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long)).shape == (1, channels, 8, 8)


@pytest.mark.parametrize("block", ["adaln_zero", "adaln", "cross_attention", "in_context"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_every_design_reaches_every_parameter(block, qk_norm):
    model = create_model("DiT-atto/4", seed=0, block=block, qk_norm=qk_norm, **DIGITS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model(*inputs()).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert not dead


@pytest.mark.parametrize("block", ["adaln", "cross_attention", "in_context"])
def test_every_design_starts_at_zero_and_uses_its_condition(block):
    model = create_model("DiT-atto/4", seed=0, block=block, **DIGITS)
    x, t, y = inputs()
    assert torch.equal(model(x, t, y), torch.zeros(4, 1, 8, 8))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    out = model(x, t, y)
    assert not torch.allclose(out, model(x, t + 100, y)) and not torch.allclose(out, model(x, t, (y + 1) % 10))


@pytest.mark.parametrize("block", ["adaln_zero", "adaln", "cross_attention", "in_context"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_without_graph_breaks(block, dtype):
    model = create_model("DiT-atto/4", seed=0, block=block, qk_norm=True, **DIGITS).to(dtype)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(*inputs()).float(), model(*inputs()).float(), rtol=0.05, atol=0.05)
    block_alone = torch.compile(model.blocks[0], fullgraph=True, backend="aot_eager")
    c = torch.randn(4, 2, 32, dtype=dtype) if block == "cross_attention" else torch.randn(4, 32, dtype=dtype)
    assert block_alone(torch.randn(4, 4, 32, dtype=dtype), c).shape == (4, 4, 32)


def test_unknown_block_is_refused():
    with pytest.raises(UserError, match="no block design 'adaln-zero'; did you mean 'adaln_zero'"):
        create_model("DiT-atto/4", block="adaln-zero", **DIGITS)


def test_modulation_is_done_in_fp32():
    """Under bf16 the result is nearer the exact one than modulation in bf16 would bring it."""
    torch.manual_seed(0)
    x, shift, scale = torch.randn(4, 16, 64).bfloat16(), 0.3 * torch.randn(4, 64), 0.3 * torch.randn(4, 64)
    normed = torch.nn.functional.layer_norm(x.float(), (64,), eps=1e-6)
    exact = normed * (1 + scale[:, None]) + shift[:, None]
    in_bf16 = normed.bfloat16() * (1 + scale[:, None].bfloat16()) + shift[:, None].bfloat16()
    error, error_in_bf16 = ((value.float() - exact).abs().mean() for value in (modulate(x, shift, scale), in_bf16))
    assert modulate(x, shift, scale).dtype is torch.bfloat16
    assert error < 0.75 * error_in_bf16
