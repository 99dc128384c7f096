"""MaskDiT's and MDT's key names become ours and nothing else does; what is not theirs is refused in one line."""

import re

import pytest
import torch

from ditscale.config import resolve
from ditscale.dotted import set_key
from ditscale.errors import UserError
from ditscale.models.masked import MaskedDiT
from ditscale.models.mdt import Mdt
from ditscale.models.peers import PEERS
from ditscale.objectives.from_config import build_model

SIZES = {"input_size": 8, "patch_size": 2, "in_channels": 3, "hidden_size": 32, "num_heads": 2, "num_classes": 5}


def randomized(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def maskdit(mask_token=True):
    """A masked model with a zero null class, and its weights under MaskDiT's names."""
    model = randomized(MaskedDiT(**SIZES, depth=2, decoder_depth=3, decoder_width=64, decoder_heads=2, learn_sigma=False,
                                 null_class="zero", mask_token=mask_token))
    torch.nn.init.zeros_(model.y_embedder.embedding_table.weight[5])
    state = {name.replace("decoder_embed.", "decoder_layer."): value for name, value in model.state_dict().items()}
    state["y_embedder.embedding_table.weight"] = state["y_embedder.embedding_table.weight"][:5].T
    return model, state


def mdt(depth=5, decoder_depth=2, long_skips=False):
    """An mdt model, and its weights under the names of MDT, or of MDTv2 with ``long_skips``."""
    model = randomized(Mdt(**SIZES, depth=depth, decoder_depth=decoder_depth, long_skips=long_skips))
    half, state = (depth - decoder_depth) // 2, {}
    for name, value in model.state_dict().items():
        name = name.replace("side_block.", "sideblocks.")
        if name.endswith("relative_bias.table"):
            name = name.replace("relative_bias.table", "rel_pos_bias.relative_position_bias_table")
            value = torch.cat([value, torch.ones(3, 2)])
        found = re.match(r"(blocks|skips)\.(\d+)\.(.*)", name)
        if found and long_skips:
            number, rest = int(found[2]), found[3]
            if found[1] == "skips":
                number, rest = number + half, f"skip_linear.{rest}"
            place = min(number // half, 2)                                     # the decoder may be longer than half the encoder
            name = f"{('en_inblocks', 'en_outblocks', 'de_blocks')[place]}.{number - place * half}.{rest}"
        state[name] = value
    state["sideblocks.0.attn.rel_pos_bias.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)  # their buffer
    return model, state


CASES = [("maskdit", maskdit(), {}), ("maskdit", maskdit(mask_token=False), {}), ("mdt", mdt(), {}),
         ("mdt", mdt(6, 3), {"decoder_depth": 3}), ("mdt", mdt(7, 3, long_skips=True), {})]
IDS = ["maskdit", "maskdit without mask token", "mdt", "mdt decoder 3", "mdt_v2"]


@pytest.mark.parametrize("peer, case, more", CASES, ids=IDS)
def test_every_weight_arrives_under_its_name(peer, case, more):
    model, state = case
    translated = PEERS[peer](state, 2, **more)
    assert translated.kind is type(model)
    loaded, wanted = translated.kind(**translated.model), model.state_dict()
    loaded.load_state_dict(translated.weights)
    assert wanted.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("peer, case, more", CASES, ids=IDS)
def test_the_config_keys_make_such_a_model(values, peer, case, more):
    """A run's model of the same sizes takes the weights; the config is one that ditscale accepts."""
    translated = PEERS[peer](case[1], 2, **more)
    values["model"]["name"] = "DiT-pico/2" if translated.model["depth"] <= 4 else "DiT-tiny/2"
    for key, value in translated.config.items():
        set_key(values, key, value)
    built = build_model(resolve(values, "test"))
    assert type(built) is translated.kind
    assert {name.split(".")[0] for name in built.state_dict()} == {name.split(".")[0] for name in translated.weights}


def test_the_wrapper_of_a_saved_maskdit_is_taken_off():
    _, state = maskdit()
    bare, wrapped = PEERS["maskdit"](state, 2), PEERS["maskdit"]({f"model.{name}": value for name, value in state.items()}, 2)
    assert bare.model == wrapped.model and all(torch.equal(value, wrapped.weights[name]) for name, value in bare.weights.items())


def without(state, ending):
    return {name: value for name, value in state.items() if not name.endswith(ending)}


@pytest.mark.parametrize("peer, state, heads, words", [
    ("maskdit", mdt()[1], 2, ["these are not weights of MaskDiT", "decoder_layer.linear.weight"]),
    ("maskdit", without(maskdit()[1], "embedding_table.weight"), 2, ["y_embedder.embedding_table.weight"]),
    ("maskdit", without(maskdit()[1], "decoder_blocks.1.mlp.fc1.bias"), 2, ["there is no 'decoder_blocks.1.mlp.fc1.bias'"]),
    ("maskdit", maskdit()[1] | {"cls_token": torch.zeros(1, 1, 32)}, 2, ["hold 'cls_token', which its published model does not have"]),
    ("mdt", maskdit()[1], 2, ["these are not weights of MDT", "relative_position_bias_table"]),
    ("mdt", mdt()[1], 4, ["these weights are not of 4 heads", "(52, 2)"]),
    ("mdt", mdt(2, 1)[1], 2, ["decoder_depth 2 of MDT's 2 blocks: give 1 to 1"]),
    ("mdt", without(mdt(6, 2, long_skips=True)[1], "en_outblocks.1.skip_linear.bias"), 2, ["there is no 'skips.1.bias'"]),
])
def test_other_weights_are_refused_in_one_line(peer, state, heads, words):
    with pytest.raises(UserError) as error:
        PEERS[peer](state, heads)
    for word in words:
        assert word in str(error.value), str(error.value)
    assert "\n" not in str(error.value)
