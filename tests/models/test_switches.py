"""The backbone's switches: each against its definition in fp64, in all designs and variants, and refused where it makes no sense."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.models import rope
from ditscale.models.blocks import DESIGNS
from ditscale.models.blocks.modules import modulate
from ditscale.models.convert import load_model, options_of, save_model, to_diffusers
from ditscale.models.dit import create_model
from ditscale.models.layers import Attention, Mlp
from ditscale.models.masking import gather, keep_lowest
from ditscale.models.switches import Switches
from ditscale.objectives import VARIANTS as OBJECTIVES
from ditscale.objectives.from_config import build_model

ALL = {"qk_norm": True, "norm": "rms", "mlp": "swiglu", "positions": "rope", "value_residual": True, "patch_bottleneck": 3}
EACH = [{name: value} for name, value in ALL.items()] + [{"positions": "sincos_rope"}, ALL]
FOR_MDT = {name: value for name, value in ALL.items() if name not in ("positions", "value_residual")}
VARIANTS = ({"name": "baseline"}, {"name": "masked"}, {"name": "discriminative"}, {"name": "mdt", "long_skips": True}, {"name": "tread"}, {"name": "sprint"})
DIGITS = {"input_size": 8, "in_channels": 1, "num_classes": 10, "learn_sigma": False}


def ids(options):
    return "-".join(map(str, options.values()))


def randomized(model, std=0.1):
    torch.manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model


def inputs(batch=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, 8, 8, generator=generator), torch.linspace(10, 900, batch), torch.arange(batch)


def test_swiglu_by_hand():
    mlp, x = randomized(Mlp(24, 4.0, Switches(mlp="swiglu")).double()), torch.randn(3, 5, 24, dtype=torch.float64)
    hidden = 64                                                                # 2/3 of 96
    gate, up = (x @ weight.T + bias for weight, bias in zip(mlp.gate_up.weight.split(hidden), mlp.gate_up.bias.split(hidden)))
    wanted = (gate / (1 + torch.exp(-gate)) * up) @ mlp.fc2.weight.T + mlp.fc2.bias
    torch.testing.assert_close(mlp(x), wanted)


@pytest.mark.parametrize("width, hidden", [(32, 88), (384, 1024), (768, 2048), (1024, 2728), (1152, 3072)])
def test_a_swiglu_has_the_parameters_of_a_gelu_mlp(width, hidden):
    assert Switches(mlp="swiglu").hidden(width) == hidden
    plain, gated = (sum(p.numel() for p in Mlp(width, 4.0, Switches(mlp=kind)).parameters()) for kind in ("gelu", "swiglu"))
    assert gated == pytest.approx(plain, rel=0.04 if width == 32 else 0.002)


def test_rms_norm_by_hand():
    x, shift, scale = torch.randn(2, 3, 8, dtype=torch.float64), *torch.randn(2, 2, 8)
    wanted = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale[:, None].double()) + shift[:, None].double()
    torch.testing.assert_close(modulate(x, shift, scale, "rms"), wanted, rtol=1e-6, atol=1e-6)
    model = create_model("DiT-atto/4", norm="rms", block="in_context", **DIGITS)
    assert {name for name, _ in model.named_parameters() if "norm" in name} == {"final_layer.norm_final.weight"} | {
        f"blocks.{i}.norm{n}.weight" for i in range(4) for n in (1, 2)}


def by_hand(x, row, column):
    """A head's vector (D,) in fp64, pair by pair."""
    turned, quarter = x.clone(), len(x) // 4
    for axis, position in ((0, column), (1, row)):
        for i in range(quarter):
            angle, j = position * 10000.0 ** (-i / quarter), axis * quarter + i
            a, b = x[j].item(), x[j + len(x) // 2].item()
            turned[j], turned[j + len(x) // 2] = a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle)
    return turned


def test_rotations_by_hand():
    x, table = torch.randn(2, 3, 9, 8, dtype=torch.float64), rope.rotations(8, 3)
    turned = rope.rotated(x, rope.at(table, None, 0))
    for image, head, token in product(range(2), range(3), range(9)):
        torch.testing.assert_close(turned[image, head, token], by_hand(x[image, head, token], token // 3, token % 3), rtol=1e-6, atol=1e-6)


def test_logits_depend_on_offsets_alone():
    """One query and one key at every two places of a grid: equal offsets, equal products; other offsets, others."""
    grid, (q, k) = 5, torch.randn(2, 16, dtype=torch.float64)
    table = rope.rotations(16, grid).double()
    turned = [rope.rotated(one.expand(1, 1, grid**2, 16), table)[0, 0] for one in (q, k)]
    logits, found = turned[0] @ turned[1].T, {}
    for a, b in product(range(grid**2), repeat=2):
        found.setdefault((a // grid - b // grid, a % grid - b % grid), []).append(logits[a, b].item())
    assert all(values == pytest.approx([values[0]] * len(values), abs=1e-5) for values in found.values())
    means = sorted(values[0] for values in found.values())
    assert len(means) == (2 * grid - 1) ** 2 and min(b - a for a, b in zip(means, means[1:])) > 1e-4


def test_tokens_without_a_place_are_not_turned_and_kept_ones_keep_theirs():
    table, x, kept = rope.rotations(8, 3), torch.randn(2, 2, 5, 8), torch.tensor([[0, 4, 8], [1, 2, 7]])
    turned = rope.rotated(x, rope.at(table, kept, 2))
    assert torch.equal(turned[:, :, 3:], x[:, :, 3:])
    for image, token in product(range(2), range(3)):
        place = table[:, kept[image, token], None]
        torch.testing.assert_close(turned[image, :, token], rope.rotated(x[image, None, :, token, None], place)[0, :, 0])
    assert rope.rotated(x.bfloat16(), rope.at(table, kept, 2)).dtype == torch.bfloat16


def test_both_positions_are_the_table_and_the_rotations():
    """With the other part taken out by hand, each is what is left."""
    both, turned, added = (randomized(create_model("DiT-atto/2", positions=kind, **DIGITS)) for kind in ("sincos_rope", "rope", "sincos"))
    assert both.state_dict().keys() == turned.state_dict().keys() | added.state_dict().keys()
    whole = both(*inputs())
    assert not torch.allclose(whole, turned(*inputs())) and not torch.allclose(whole, added(*inputs()))
    table, both.pos_embed = both.pos_embed, torch.zeros_like(both.pos_embed)
    torch.testing.assert_close(both(*inputs()), turned(*inputs()))
    both.pos_embed, both.rope = table, rope.rotations(32, 1).expand(2, 16, 16)  # of one place: none is turned
    torch.testing.assert_close(both(*inputs()), added(*inputs()))


def test_attention_with_rotary_positions_and_mixed_values_by_hand():
    attention = Attention(16, 2, Switches(positions="rope", value_residual=True))
    attention.mix_values(is_first=False)
    attention, x, first = randomized(attention, 0.5).double(), *torch.randn(2, 3, 4, 16, dtype=torch.float64)
    first = first.view(3, 4, 2, 8).transpose(1, 2)
    q, k, v = attention.qkv(x).view(3, 4, 3, 2, 8).permute(2, 0, 3, 1, 4)
    q, k = (torch.stack([by_hand(one, n // 2, n % 2) for rows in all_.flatten(0, 1) for n, one in enumerate(rows)]).view(3, 2, 4, 8) for all_ in (q, k))
    mix = attention.value_mix.item()
    wanted = (q @ k.mT / math.sqrt(8)).softmax(-1) @ ((1 - mix) * v + mix * first)
    torch.testing.assert_close(attention(x, rope.rotations(8, 2).double(), first), attention.proj(wanted.transpose(1, 2).flatten(2)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("block", DESIGNS)
def test_later_blocks_mix_in_the_values_of_the_first(block):
    model = randomized(create_model("DiT-femto/2", block=block, value_residual=True, **DIGITS))
    assert model.blocks[0].attn.value_mix is None and [p.shape for p in (one.attn.value_mix for one in model.blocks[1:])] == [(1,)] * 3
    plain = randomized(create_model("DiT-femto/2", block=block, **DIGITS))
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "value_mix" not in name})
    assert not torch.allclose(model(*inputs()), plain(*inputs()))
    with torch.no_grad():
        for one in model.blocks[1:]:
            one.attn.value_mix.zero_()
    torch.testing.assert_close(model(*inputs()), plain(*inputs()))             # none of the first's
    new = create_model("DiT-femto/2", value_residual=True, **DIGITS)
    assert all(one.attn.value_mix.item() == 0.5 for one in new.blocks[1:])


@pytest.mark.parametrize("switches", [one for one in EACH if not {"mlp", "patch_bottleneck"} & set(one)], ids=ids)
def test_shared_weights_start_equal(switches):
    """The draws of other parameters do not move where shapes stay, so that a switch is all that differs."""
    one, two = (create_model("DiT-atto/4", seed=3, **DIGITS, **some).state_dict() for some in ({}, switches))
    assert all(torch.equal(one[name], two[name]) for name in one.keys() & two.keys()) and len(one.keys() & two.keys()) > 30


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("switches", EACH, ids=ids)
def test_every_design_reaches_every_parameter_and_starts_at_zero(switches, block):
    model = create_model("DiT-atto/4", seed=0, block=block, **switches, **DIGITS)
    assert torch.equal(model(*inputs()), torch.zeros(4, 1, 8, 8))
    randomized(model)(*inputs()).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]


@pytest.mark.parametrize("block, dtype", [("adaln_zero", torch.float32), ("in_context", torch.bfloat16)])
def test_compiles_without_graph_breaks(block, dtype):
    model = randomized(create_model("DiT-atto/4", block=block, **ALL, **DIGITS)).to(dtype)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs()).float(), model(*inputs()).float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("block", DESIGNS)
def test_recomputed_blocks_give_the_same_gradients(block):
    model = randomized(create_model("DiT-atto/2", block=block, **ALL, **DIGITS).double())
    gradients = []
    for recompute in (False, True):
        for one in model.blocks if recompute else ():
            one.forward = lambda *args, forward=one.forward: checkpoint(forward, *args, use_reentrant=False)
        model.zero_grad()
        model(*inputs()).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def variant(values, objective, switches, block="adaln_zero", **model):
    values["objective"], values["model"] = objective, {"name": "DiT-nano/2", "block": block, **switches, **model}
    return build_model(resolve(values, "test"))


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("objective", VARIANTS[1:], ids=lambda one: one["name"])
def test_variants_keep_places_and_see_no_masked_token(values, objective, block):
    """Keeping every token is the full pass; the order of kept tokens does not matter; masked ones do not leak into the encoder."""
    refused, hides = OBJECTIVES[objective["name"]].refused_switches, objective["name"] in ("masked", "discriminative", "mdt")
    switches = {name: value for name, value in ALL.items() if name not in refused}
    assert objective["name"] != "mdt" or switches == FOR_MDT
    model = randomized(variant(values, objective, switches, block), 0.05)
    x, t, y = inputs()
    everything, kept, order = torch.arange(16).expand(4, -1), keep_lowest(torch.rand(4, 16), 8), torch.randperm(8)
    torch.testing.assert_close(model(x, t, y, kept=everything), model(x, t, y), atol=1e-5, rtol=1e-4)

    def encoded(x, kept):
        return model.encode(gather(model.embed(x), kept), model.condition(t, y), kept)[0]

    if hides:                                                                  # its encoder sees kept tokens alone
        torch.testing.assert_close(encoded(x, kept)[:, order], encoded(x, kept[:, order]), atol=1e-5, rtol=1e-4)
    if hides and "positions" in switches:
        shifted = (kept + 1) % 16                                              # the same values at other places
        tokens = gather(model.embed(x), kept)
        assert not torch.allclose(model.encode(tokens, model.condition(t, y), shifted)[0], encoded(x, kept))
    model(x, t, y, kept=kept).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None and not name.startswith("head.")]


def test_a_decoder_has_first_values_of_its_own(values):
    model = variant(values, {"name": "masked", "decoder_depth": 3}, {"value_residual": True})
    assert [one.attn.value_mix is None for one in model.decoder_blocks] == [True, False, False] and model.decoder_blocks[0].attn.gives_values
    alone = variant(values, {"name": "masked", "decoder_depth": 1}, {"value_residual": True})
    assert not alone.decoder_blocks[0].attn.gives_values


@pytest.mark.parametrize("model, objective, words", [
    ({"positions": "rope"}, {"name": "mdt"}, "model.positions rope with objective mdt: MDT's attention has positions of its own"),
    ({"positions": "sincos_rope"}, {"name": "mdt"}, "model.positions sincos_rope with objective mdt"),
    ({"value_residual": True}, {"name": "mdt"}, "model.value_residual true with objective mdt: its last blocks decode tokens"),
    ({"name": "DiT-2x60x10/2", "positions": "rope"}, {"name": "baseline"}, "heads of 6: positions rope need heads of a multiple of 4"),
    ({"positions": "rope"}, {"name": "masked", "decoder_width": 24, "decoder_heads": 4}, "objective.decoder_width 24 in 4 heads of 6"),
    ({"name": "DiT-1x64/2", "value_residual": True}, {"name": "baseline"}, "model.value_residual has no effect in DiT-1x64/2"),
    ({"norm": "batch"}, {"name": "baseline"}, "'model.norm' is 'batch': should be 'layer' or 'rms'"),
    ({"patch_bottleneck": 0}, {"name": "baseline"}, "'model.patch_bottleneck' is 0"),
])
def test_what_makes_no_sense_is_refused(values, model, objective, words):
    values["model"], values["objective"] = {"name": "DiT-nano/2", **model}, objective
    with pytest.raises(UserError, match=words):
        resolve(values, "test")


def test_defaults_leave_run_ids_alone(values):
    plain = resolve(values, "test")
    values["model"] |= {"norm": "layer", "mlp": "gelu", "positions": "sincos", "value_residual": False, "patch_bottleneck": None}
    assert resolve(values, "test").science_hash() == plain.science_hash()
    for name, value in ALL.items():
        values["model"] |= {name: value}
        assert resolve(values, "test").science_hash() != plain.science_hash()
        values["model"].pop(name)


@pytest.mark.parametrize("switches", EACH, ids=ids)
def test_round_trip_and_formats_that_cannot_hold_it(tmp_path, switches):
    model = randomized(create_model("DiT-atto/4", seed=0, **switches, **DIGITS)).eval()
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(again(*inputs()), model(*inputs())) and options_of(again) == options_of(model)
    for refused in (lambda: to_diffusers(model), lambda: save_model(model, tmp_path / "m.pt")):
        with pytest.raises(UserError, match=f"does not support .*{'QK-norm' if 'qk_norm' in switches else next(iter(switches))}"):
            refused()


def test_a_bottleneck_is_two_linear_layers():
    model = create_model("DiT-atto/16", patch_bottleneck=12, **{**DIGITS, "input_size": 32, "in_channels": 3})
    x = torch.randn(2, 3, 32, 32)
    conv = F.conv2d(x, model.x_embedder.patches.weight, stride=16).flatten(2).mT
    torch.testing.assert_close(model.x_embedder(x), F.linear(conv, model.x_embedder.expand.weight, model.x_embedder.expand.bias), atol=1e-5, rtol=1e-4)
    assert model.x_embedder.patches.weight.shape == (12, 3, 16, 16) and model(x, torch.zeros(2), torch.zeros(2, dtype=torch.long)).shape == x.shape
