"""muP and CompleteP: initial weights, rates and the function that a folded model computes."""

import re

import pytest
import torch

from ditscale.config import resolve
from ditscale.dotted import set_key
from ditscale.errors import UserError
from ditscale.models.parametrization import fold
from ditscale.objectives.from_config import build_model

MUP = {"model.parametrization": "mup", "model.base_width": 64}
COMPLETEP = {"model.parametrization": "completep", "model.base_width": 64, "model.base_depth": 2}


@pytest.fixture
def config(values):
    def make(name, objective="baseline", **changes):
        for key, value in {"model.name": name, "objective": {"name": objective}, **{key.replace("__", "."): one for key, one in changes.items()}}.items():
            set_key(values, key, value)
        return resolve(values, "test")
    return make


def mup(**more):
    return {**{key.replace(".", "__"): value for key, value in MUP.items()}, **more}


def completep(**more):
    return {**{key.replace(".", "__"): value for key, value in COMPLETEP.items()}, **more}


@pytest.mark.parametrize("objective", ["baseline", "masked", "mdt", "discriminative", "sprint"])
@pytest.mark.parametrize("block", ["adaln_zero", "cross_attention", "in_context", "adaln"])
def test_the_base_size_is_the_standard_model(values, objective, block):
    def built(**more):
        for key, value in {"model": {"name": "DiT-4x64/2", "block": block, **more}, "objective": {"name": objective}, "train.grad_clip": 1.0}.items():
            set_key(values, key, value)
        return resolve(values, "test")
    standard, other = built(), built(parametrization="completep", base_width=64, base_depth=4)
    assert other.science_hash() == standard.science_hash() and other.recipe() == standard.recipe()
    one, two = build_model(standard), build_model(other)
    assert two.scales == {} and all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    wider = built(parametrization="mup", base_width=128)
    assert wider.science_hash() != standard.science_hash()


def test_initial_deviations(config):
    """Of a model four times the base's width: hidden ones fall as 1 / sqrt(m), the input's stays, the time's second layer too falls."""
    wide, base = build_model(config("DiT-2x256/2", **mup())), build_model(config("DiT-2x64/2", **mup()))
    expected = {"x_embedder.proj.weight": 1.0, "t_embedder.mlp.0.weight": 1.0, "t_embedder.mlp.2.weight": 0.5, "y_embedder.embedding_table.weight": 1.0,
                "blocks.1.attn.qkv.weight": 0.5, "blocks.1.attn.proj.weight": 0.5, "blocks.1.mlp.fc1.weight": 0.5, "blocks.1.mlp.fc2.weight": 0.5}
    for name, ratio in expected.items():
        assert wide.get_parameter(name).std().item() / base.get_parameter(name).std().item() == pytest.approx(ratio, rel=0.06), name
    assert wide.get_parameter("final_layer.linear.weight").abs().max() == 0


def test_rates_by_kind(config):
    scales = build_model(config("DiT-4x256/2", **completep())).scales
    for name in dict(build_model(config("DiT-4x256/2", **completep())).named_parameters()):
        is_hidden = re.search(r"(qkv|attn\.proj|fc[12]|adaLN_modulation\.1|t_embedder\.mlp\.2)\.weight", name)
        depth = 2 if name.startswith("blocks.") else 1
        if is_hidden:
            assert (scales[name].lr, scales[name].eps, scales[name].decay) == (0.25, 0.25 / depth, 4.0), name
        elif name == "final_layer.linear.weight":
            assert (scales[name].lr, scales[name].eps, scales[name].decay) == (0.25, 1.0, 4.0)
        else:
            assert name not in scales


SWITCHES = {"norm": "rms", "mlp": "swiglu", "positions": "rope", "value_residual": True, "patch_bottleneck": 3}


def test_rates_of_switched_layers_follow_their_shapes(config):
    """A SwiGLU's matrices are hidden ones, by their own widths (of 256: 680, of the base's 64: 168); a bottleneck has a fixed width."""
    model = build_model(config("DiT-4x256/2", **completep(**{f"model__{name}": value for name, value in SWITCHES.items()})))
    assert (model.scales["blocks.0.mlp.gate_up.weight"].lr, model.scales["blocks.0.mlp.fc2.weight"].lr) == (0.25, 168 / 680)
    assert not [name for name in model.scales if name.startswith("x_embedder") or "value_mix" in name or "norm" in name]


def check_folding(model):
    """Folds a model with other weights, so that gates and the last layer count: its function stays. Returns the inputs and its output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    x, t, y = torch.randn(2, 1, 8, 8, generator=generator, dtype=torch.float64), torch.tensor([3.0, 700.0]), torch.tensor([1, 9])
    before = model(x, t, y)
    fold(model)
    assert before.abs().mean() > 0.01
    torch.testing.assert_close(model(x, t, y), before, rtol=1e-9, atol=1e-9)
    return x, t, y, before


@pytest.mark.parametrize("objective", ["baseline", "masked", "discriminative"])
@pytest.mark.parametrize("block", ["adaln_zero", "in_context"])
def test_a_switched_base_is_standard_and_a_folded_model_the_same_function(config, objective, block):
    switches = {f"model__{name}": value for name, value in SWITCHES.items()} | {"model__block": block}
    one, two = (build_model(config("DiT-2x64/2", objective, **switches, **more)) for more in (
        {"model__parametrization": "standard", "model__base_width": None, "model__base_depth": None}, completep()))
    assert two.scales == {} and all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    fixed = {} if objective == "baseline" else {"objective__decoder_depth": 2, "objective__decoder_width": 32, "objective__decoder_heads": 1}
    model = build_model(config("DiT-4x128/2", objective, **completep(train__grad_clip=1.0, **fixed, **switches))).double()
    check_folding(model)


def test_a_decoder_of_fixed_width_has_no_rule_inside(config):
    fixed = {"objective__decoder_depth": 1, "objective__decoder_width": 32, "objective__decoder_heads": 1}
    scales = build_model(config("DiT-2x256/2", "masked", **mup(**fixed))).scales
    assert "decoder_blocks.0.attn.qkv.weight" not in scales and "final_layer.linear.weight" not in scales
    assert scales["decoder_embed.linear.weight"].lr == scales["decoder_blocks.0.adaLN_modulation.1.weight"].lr == 0.25
    follows = build_model(config("DiT-4x256/2", "mdt", **mup())).scales
    assert follows["side_block.0.attn.qkv.weight"].lr == 0.25


@pytest.mark.parametrize("objective", ["baseline", "masked", "mdt", "discriminative", "sprint"])
@pytest.mark.parametrize("block", ["adaln_zero", "cross_attention"])
def test_with_clipping_multipliers_replace_rates_and_a_folded_model_is_the_same_function(config, objective, block):
    options = completep(train__grad_clip=1.0, model__block=block)
    model = build_model(config("DiT-4x128/2", objective, **options)).double()
    assert all(scale.lr == 1 or name != "final_layer.linear.weight" for name, scale in model.scales.items())
    x, t, y, before = check_folding(model)
    again = build_model(config("DiT-4x128/2", objective, model__parametrization="standard", model__base_width=None, model__base_depth=None)).double()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(x, t, y), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("changes, words", [
    ({"model__parametrization": "mup"}, "model.parametrization mup needs model.base_width"),
    ({"model__parametrization": "completep", "model__base_width": 64}, "model.parametrization completep needs model.base_depth"),
    ({"model__base_width": 64}, "model.base_width 64 has no effect with model.parametrization standard"),
    ({"model__parametrization": "mup", "model__base_width": 64, "model__base_depth": 2}, "model.base_depth 2 has no effect"),
    ({"model__parametrization": "mup", "model__base_width": 96}, "model.base_width 96 must be a multiple of 64, the width of a head"),
    ({"model__parametrization": "mup", "model__base_width": 64, "train__optimizer": {"name": "sgd"}}, "has rates for Adam's steps"),
])
def test_what_does_not_fit_is_refused(config, changes, words):
    with pytest.raises(UserError, match=words):
        config("DiT-2x128/2", **changes)


def test_a_base_with_another_decoder_is_refused(config):
    with pytest.raises(UserError, match="set objective.decoder_depth"):
        build_model(config("DiT-4x512/2", "masked", **mup()))
