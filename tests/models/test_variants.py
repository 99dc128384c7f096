"""The variants' models: no leak from masked tokens, nothing of training at inference, the same encoder to start from."""

import pytest
import torch

from ditscale.config import resolve
from ditscale.models.dit import DiT
from ditscale.models.layers import RelativePositionBias, relative_offsets
from ditscale.models.masking import gather, is_kept, keep_lowest
from ditscale.objectives.from_config import build_model

DESIGNS = ("adaln_zero", "adaln", "cross_attention", "in_context")
VARIANTS = ({"name": "masked"}, {"name": "mdt"}, {"name": "mdt", "long_skips": True, "mask_ratio_max": 0.5}, {"name": "discriminative"})
ROUTED = ({"name": "tread"}, {"name": "sprint"})                               # their first blocks see all tokens


def trained_looking(values, objective, block="adaln_zero", name="DiT-nano/2", qk_norm=False):
    """A variant's model with random weights everywhere, so that no zero gate hides a mistake."""
    values["objective"], values["model"] = objective, {"name": name, "block": block, "qk_norm": qk_norm}
    model = build_model(resolve(values, "test"))
    torch.manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def inputs(batch=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, 8, 8, generator=generator), torch.linspace(10, 900, batch), torch.arange(batch)


def encoded_when(model, x, kept):
    """What the encoder makes of the kept tokens."""
    _, t, y = inputs()
    return model.encode(gather(model.embed(x), kept), model.condition(t, y), kept)[0]


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("objective", VARIANTS, ids=lambda o: "-".join(map(str, o.values())))
def test_masked_tokens_do_not_leak_into_the_encoder(values, objective, block):
    model, (x, _, _) = trained_looking(values, objective, block), inputs()
    kept = keep_lowest(torch.rand(4, 16), 8)
    hidden = ~is_kept(kept, 16).view(4, 1, 4, 4).repeat_interleave(2, -1).repeat_interleave(2, -2)
    changed = torch.where(hidden, torch.randn_like(x), x)
    assert torch.equal(encoded_when(model, x, kept), encoded_when(model, changed, kept))
    assert not torch.equal(encoded_when(model, x, kept), encoded_when(model, torch.where(hidden, x, torch.randn_like(x)), kept))


@pytest.mark.parametrize("objective", VARIANTS[:2], ids=lambda o: o["name"])
def test_the_output_does_not_know_the_masked_tokens_either(values, objective):
    """Decoders that are given mask tokens; SD-DiT's and MDTv2's see the raw embeddings by design."""
    model, (x, t, y) = trained_looking(values, objective), inputs()
    kept = keep_lowest(torch.rand(4, 16), 8)
    hidden = ~is_kept(kept, 16).view(4, 1, 4, 4).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(model(x, t, y, kept=kept), model(torch.where(hidden, torch.randn_like(x), x), t, y, kept=kept))


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("objective", VARIANTS + ROUTED, ids=lambda o: "-".join(map(str, o.values())))
def test_keeping_every_token_is_the_full_pass(values, objective, block):
    """Positions, relative offsets and skips follow their tokens through gather and scatter."""
    model, (x, t, y) = trained_looking(values, objective, block, qk_norm=True), inputs()
    everything = torch.arange(16).expand(4, -1)
    assert torch.allclose(model(x, t, y, kept=everything), model(x, t, y), atol=1e-5)


@pytest.mark.parametrize("objective", VARIANTS, ids=lambda o: "-".join(map(str, o.values())))
def test_positions_follow_their_tokens(values, objective):
    """The encoder's output for a set of tokens does not depend on the order in which they are handed in."""
    model, (x, _, _) = trained_looking(values, objective), inputs()
    kept = keep_lowest(torch.rand(4, 16), 8)
    order = torch.randperm(8)
    assert torch.allclose(encoded_when(model, x, kept)[:, order], encoded_when(model, x, kept[:, order]), atol=1e-5)


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("objective", VARIANTS + ROUTED, ids=lambda o: "-".join(map(str, o.values())))
def test_inference_calls_nothing_of_training(values, objective, block):
    """Sampling's forward touches no training-only parameter: each has no gradient after it, every other has one."""
    model, (x, t, y) = trained_looking(values, objective, block), inputs()
    for name in model.training_only:
        module = getattr(model, name)
        for part in module.modules() if isinstance(module, torch.nn.Module) else ():
            part.register_forward_pre_hook(lambda *_: pytest.fail(f"{name} ran at inference"))
    model(x, t, y).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name.split(".")[0] in model.training_only), name


@pytest.mark.parametrize("objective", VARIANTS + ROUTED, ids=lambda o: "-".join(map(str, o.values())))
def test_every_variant_starts_from_the_baselines_encoder(values, objective):
    values["objective"], values["model"]["name"] = objective, "DiT-nano/2"
    variant = build_model(resolve(values, "test")).state_dict()
    values["objective"] = {"name": "baseline"}
    baseline = build_model(resolve(values, "test")).state_dict()
    encoder = [name for name in baseline if not name.startswith("final_layer")]
    assert encoder and all(torch.equal(baseline[name], variant[name]) for name in encoder)


@pytest.mark.parametrize("objective", VARIANTS + ROUTED, ids=lambda o: "-".join(map(str, o.values())))
def test_output_is_zero_at_first(values, objective):
    values["objective"], values["model"]["name"] = objective, "DiT-nano/2"
    model = build_model(resolve(values, "test"))
    x, t, y = inputs()
    assert torch.equal(model(x, t, y), torch.zeros(4, 1, 8, 8))
    assert torch.equal(model(x, t, y, kept=torch.arange(0, 16, 2).expand(4, -1)), torch.zeros(4, 1, 8, 8))


def test_a_zero_mask_token_is_a_learned_one_set_to_zero(values):
    learned = trained_looking(values, {"name": "masked"})
    zero = trained_looking(values, {"name": "masked", "mask_token": "zero"})
    assert set(learned.state_dict()) - set(zero.state_dict()) == {"mask_token"}
    zero.load_state_dict({name: value for name, value in learned.state_dict().items() if name != "mask_token"})
    kept = keep_lowest(torch.rand(4, 16), 8)
    assert not torch.equal(zero(*inputs(), kept=kept), learned(*inputs(), kept=kept))
    torch.nn.init.zeros_(learned.mask_token)
    assert torch.equal(zero(*inputs(), kept=kept), learned(*inputs(), kept=kept))


def test_a_zero_null_class_stays_zero_and_changes_nothing_else(values):
    values["model"]["null_class"] = "zero"
    model = build_model(resolve(values, "test"))
    values["model"]["null_class"] = "learned"
    for name, value in build_model(resolve(values, "test")).state_dict().items():
        if name == "y_embedder.embedding_table.weight":
            assert value[10].abs().sum() > 0 and torch.equal(value[:10], model.state_dict()[name][:10])
        else:
            assert torch.equal(value, model.state_dict()[name])
    table, (x, t, _) = model.y_embedder.embedding_table, inputs()
    for parameter in (parameter for name, parameter in model.named_parameters() if "y_embedder" not in name):
        torch.nn.init.normal_(parameter, std=0.05)
    optimizer, before = torch.optim.AdamW(model.parameters(), lr=0.1), table.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        model(x, t, torch.tensor([10, 3, 10, 4])).square().mean().backward()
        optimizer.step()
    assert torch.equal(table.weight[10], torch.zeros(table.embedding_dim))
    assert not torch.allclose(table.weight[3], before[3], atol=0.1)


def test_no_masking_and_no_decoder_is_the_baselines_model(values):
    values["objective"] = {"name": "masked", "mask_ratio": 0.0, "decoder_depth": 0}
    assert type(build_model(resolve(values, "test"))) is DiT


def test_maskdit_xl_has_the_published_parameters(values):
    """730.1M trainable ones, as computed from the released code (its paper says 730M); the fixed position tables add 0.4M."""
    values["data"] |= {"resolution": 32, "channels": 4, "classes": 1000}
    values["objective"], values["model"]["name"], values["formulation"] = {"name": "masked"}, "DiT-XL/2", {"name": "edm"}
    with torch.device("meta"):
        model = build_model(resolve(values, "test"))
    assert sum(p.numel() for p in model.parameters()) == 730_116_368


def test_relative_offsets_by_hand():
    offsets = relative_offsets(3)
    assert offsets.shape == (9, 9) and offsets.min() == 0 and offsets.max() == 24
    same = {(a // 3 - b // 3, a % 3 - b % 3): offsets[a, b].item() for a in range(9) for b in range(9)}
    assert len(set(same.values())) == len(same) == 25                          # one index an offset, and no other
    assert all(offsets[a, b] == same[a // 3 - b // 3, a % 3 - b % 3] for a in range(9) for b in range(9))


def test_relative_bias_is_added_to_the_logits():
    """Against a softmax written out."""
    from ditscale.models.layers import Attention

    attention = Attention(8, 2, relative_grid=2)
    torch.nn.init.normal_(attention.relative_bias.table)
    x, offsets = torch.randn(3, 4, 8), relative_offsets(2)
    q, k, v = attention.qkv(x).view(3, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
    bias = attention.relative_bias.table[offsets].permute(2, 0, 1)
    wanted = ((q @ k.transpose(-1, -2)) / 2 + bias).softmax(-1) @ v
    assert torch.allclose(attention(x, offsets), attention.proj(wanted.transpose(1, 2).reshape(3, 4, 8)), atol=1e-6)


def test_tokens_without_a_place_get_no_bias():
    bias = RelativePositionBias(2, 3)
    torch.nn.init.normal_(bias.table)
    padded = bias(relative_offsets(2), 6)
    assert padded.shape == (3, 6, 6) and padded[:, 4:].abs().sum() == padded[:, :, 4:].abs().sum() == 0
    assert torch.equal(padded[:, :4, :4], bias(relative_offsets(2), 4))
