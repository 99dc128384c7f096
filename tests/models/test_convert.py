"""Weights in and out, proven by equal outputs."""

import pytest
import torch
from safetensors.torch import save_file

from ditscale.errors import UserError
from ditscale.models.convert import describe, from_diffusers, load_diffusers, load_model, options_of, outputs_of, save_model, to_diffusers
from ditscale.models.dit import create_model


def random_model(name="DiT-pico/2", **options):
    """Every weight random, so that nothing is hidden by zero initialization."""
    model = create_model(name, seed=0, **{"input_size": 8, "in_channels": 4, "num_classes": 7, **options})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return model.eval()


def inputs(classes=7):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(5, 4, 8, 8, generator=generator), torch.tensor([0, 1, 250, 500, 999]), torch.tensor([0, 3, 6, classes, 2])


@torch.no_grad()
def outputs(model):
    return model(*inputs())


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_diffusers_gives_the_same_outputs(learn_sigma):
    model = random_model(learn_sigma=learn_sigma)
    twin = to_diffusers(model)
    x, t, y = inputs()
    with torch.no_grad():
        theirs = twin(x, timestep=t, class_labels=y).sample
    assert outputs(model).abs().max() > 0.1
    assert torch.allclose(theirs, outputs(model), atol=1e-5)
    assert torch.allclose(outputs(from_diffusers(twin)), outputs(model), atol=1e-6)


def test_every_diffusers_weight_is_set():
    assert not any(p.is_meta for p in to_diffusers(random_model()).state_dict().values())


def test_diffusers_own_frequencies_differ():
    """Why ``to_diffusers`` touches them: if this ever passes as equal, diffusers was mended and the special case can go."""
    model = random_model()
    twin = to_diffusers(model)
    for block in twin.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 1
    x, t, y = inputs()
    with torch.no_grad():
        assert not torch.allclose(twin(x, timestep=t, class_labels=y).sample, outputs(model), atol=1e-2)


@pytest.mark.parametrize("target", ["model.safetensors", "model.pt", "folder"])
def test_round_trip_through_files(tmp_path, target):
    model = random_model()
    save_model(model, tmp_path / target)
    again = load_model(tmp_path / target)
    assert torch.allclose(outputs(again), outputs(model), atol=1e-6)
    assert options_of(again) == options_of(model)


def test_a_saved_pipeline_loads(tmp_path):
    model = random_model()
    to_diffusers(model).save_pretrained(tmp_path / "pipeline" / "transformer")
    twin = load_diffusers(tmp_path / "pipeline")
    x, t, y = inputs()
    with torch.no_grad():
        assert torch.allclose(twin(x, timestep=t, class_labels=y).sample, outputs(model), atol=1e-5)


@pytest.mark.parametrize("block", ["adaln", "cross_attention", "in_context"])
def test_other_designs(tmp_path, block):
    model = random_model(block=block)
    with pytest.raises(UserError, match=f"only adaLN-Zero.*'{block}'"):
        to_diffusers(model)
    save_model(model, tmp_path / "m.safetensors")
    assert torch.equal(outputs(load_model(tmp_path / "m.safetensors")), outputs(model))


def test_qk_norm_is_refused_by_diffusers():
    with pytest.raises(UserError, match="QK-norm"):
        to_diffusers(random_model(qk_norm=True))


def test_released_names_and_shapes():
    """The published XL/2 checkpoint: shapes of its tensors, as its repository's code makes them."""
    with torch.device("meta"):
        state = create_model("DiT-XL/2", input_size=32, in_channels=4).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["pos_embed"] == (1, 256, 1152) and shapes["x_embedder.proj.weight"] == (1152, 4, 2, 2)
    assert shapes["y_embedder.embedding_table.weight"] == (1001, 1152) and shapes["t_embedder.mlp.0.weight"] == (1152, 256)
    assert shapes["blocks.27.adaLN_modulation.1.weight"] == (6912, 1152) and shapes["blocks.0.attn.qkv.weight"] == (3456, 1152)
    assert shapes["final_layer.linear.weight"] == (32, 1152) and len(state) == 28 * 10 + 12
    assert describe(state, "x") == {"input_size": 32, "patch_size": 2, "in_channels": 4, "hidden_size": 1152, "depth": 28,
                                    "num_heads": 16, "num_classes": 1000, "class_dropout_prob": 0.1, "learn_sigma": True}


def test_training_checkpoints_give_their_ema(tmp_path):
    model = random_model()
    torch.save({"model": {}, "ema": model.state_dict(), "opt": {}}, tmp_path / "0400000.pt")
    assert torch.equal(outputs(load_model(tmp_path / "0400000.pt")), outputs(model))


class Malicious:
    def __reduce__(self):
        return (print, ("owned",))


@pytest.mark.parametrize("content, words", [
    (b"nonsense", "not a file of weights"), (b"", "not a file of weights"),
    ({"x": Malicious()}, "not weights that can be loaded safely"),
    ({"a": torch.zeros(1)}, "not the weights of a DiT"),
    ([1, 2], "holds no state dict"),
])
def test_bad_files(tmp_path, capsys, content, words):
    path = tmp_path / "bad.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError) as error:
        load_model(path)
    assert words in str(error.value) and "bad.pt" in str(error.value) and "\n" not in str(error.value)
    assert "owned" not in capsys.readouterr().out


@pytest.mark.parametrize("header", ["nonsense", "[]", "{}", '{"depth": 1000000000}', '{"depth": 4}', '{"depth": 4, "owner": 1}'])
def test_a_damaged_header_is_one_line(tmp_path, header):
    save_file(random_model().state_dict(), tmp_path / "m.safetensors", metadata={"ditscale.config": header})
    with pytest.raises(UserError, match="its header") as error:
        load_model(tmp_path / "m.safetensors")
    assert "\n" not in str(error.value)


def test_missing_file():
    with pytest.raises(UserError, match="no such file"):
        load_model("/nowhere/model.pt")


def test_a_header_says_what_the_network_predicts():
    stated = [outputs_of(formulation) for formulation in ({"name": "ddpm"}, {"name": "edm"}, {"name": "flow", "prediction": "velocity"},
                                                          {"name": "flow", "prediction": "x"})]
    assert [one.get("ditscale.outputs") for one in stated] == [None, "formulation edm", "formulation flow", "formulation flow, prediction x"]
