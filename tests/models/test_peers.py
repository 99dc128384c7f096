"""Peers' weights as ditscale's: the arithmetic of each translation, and what is refused. ``tests/parity`` has their own outputs."""

import pytest
import torch

from ditscale.errors import UserError
from ditscale.models.dit import DiT
from ditscale.models.peers import PEERS
from ditscale.models.peers.sit import for_reversed_time

SIZES = {"input_size": 8, "patch_size": 2, "in_channels": 3, "hidden_size": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
BARE = {"dit": True, "sit": False, "repa": False}                              # whether the learned variance stays


def peer(learn_sigma):
    """A network of random weights that stands for a peer's, in fp64: the embedder's sinusoids are fp32."""
    torch.manual_seed(3)
    model = DiT(**SIZES, learn_sigma=learn_sigma)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.double().requires_grad_(False)


def ours(name, state):
    translated = PEERS[name](state, 3)
    model = DiT(**translated.model).double()
    model.load_state_dict(translated.weights)
    return model.requires_grad_(False), translated


def inputs():
    return torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0.0, 0.25, 0.625, 1.0]), torch.tensor([0, 4, 5, 2])


@pytest.mark.parametrize("doubled", [False, True])
def test_sit_runs_from_noise_to_data(doubled):
    """SiT's network at its time t, first C channels, is minus ours at 1 - t. The half that it throws away does not matter."""
    theirs, (x, t, labels) = peer(learn_sigma=doubled), inputs()
    model, translated = ours("sit", theirs.state_dict())
    assert translated.config == {"formulation.name": "flow", "formulation.time_scale": 1.0} and model.out_channels == 3
    output = theirs(x, t, labels)[:, :3]
    assert torch.allclose(-model(x, 1 - t, labels), output, atol=1e-6) and output.abs().max() > 0.5
    assert not torch.allclose(-model(x, t, labels), output, atol=1e-3)


def test_time_reversed_twice_is_time():
    weight = torch.randn(24, 256, dtype=torch.float64)
    assert torch.allclose(for_reversed_time(for_reversed_time(weight)), weight, atol=1e-12)


@pytest.mark.parametrize("doubled", [False, True])
def test_repa_is_taken_without_its_projectors(doubled):
    theirs, (x, t, labels) = peer(learn_sigma=doubled), inputs()
    state = theirs.state_dict() | {"projectors.0.0.weight": torch.zeros(8, 24), "projectors.0.0.bias": torch.zeros(8)}
    model, translated = ours("repa", state)
    assert torch.equal(model(x, t, labels), theirs(x, t, labels)[:, :3])
    assert "projectors.0.0.weight" not in translated.weights and "projectors.0.0.weight" in state


def test_dit_is_taken_as_it_is():
    theirs, (x, t, labels) = peer(learn_sigma=True), inputs()
    model, translated = ours("dit", theirs.state_dict())
    assert torch.equal(model(x, 1000 * t, labels), theirs(x, 1000 * t, labels))
    assert translated.config == {"formulation.name": "ddpm"}


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("change, words", [
    ({"x_embedder.proj.weight": None}, "there is no 'x_embedder.proj.weight'"),
    ({"pos_embed": torch.zeros(16, 24)}, "have another number of axes"),
    ({"blocks.1.mlp.fc1.weight": None}, "there is no 'blocks.1.mlp.fc1.weight'"),
    ({"blocks.0.mlp.fc1.weight": torch.zeros(7, 24)}, r"'blocks.0.mlp.fc1.weight' is \(7, 24\), not \(96, 24\)"),
    ({"final_layer.linear.weight": torch.zeros(13, 24)}, "has 13 outputs where 12 or 24 belong"),
    ({"blocks.0.attn.q_norm.weight": torch.ones(8)}, "hold 'blocks.0.attn.q_norm.weight', which its published model does not have"),
])
def test_what_is_not_the_peers_is_refused(name, change, words):
    state = peer(BARE[name]).state_dict() | change
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(UserError, match=words) as error:
        PEERS[name](state, 3)
    assert "\n" not in str(error.value)


def test_heads_that_cannot_be_and_a_dit_without_variance():
    with pytest.raises(UserError, match="must be a multiple of num_heads 5"):
        PEERS["sit"](peer(False).state_dict(), 5)
    with pytest.raises(UserError, match="without DiT's learned variance; formulation ddpm needs 6"):
        PEERS["dit"](peer(False).state_dict(), 3)
