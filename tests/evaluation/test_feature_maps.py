"""The encoders that REPA can take without a network."""

import pytest
import torch
from safetensors.torch import save_file

from ditscale.errors import UserError
from ditscale.evaluation.extractors.digits_cnn import load_digits_cnn
from ditscale.evaluation.extractors.feature_maps import digits_cnn, timm_vit


def test_the_demos_map_pools_to_its_features(digits):
    path = str(digits / "digits_cnn.safetensors")
    images = torch.arange(4 * 64).reshape(4, 1, 8, 8) % 256
    tokens = digits_cnn(path)(images.float() / 127.5 - 1)
    assert tokens.shape == (4, 16, 64)
    assert torch.allclose(tokens.mean(1), load_digits_cnn(path)(images.byte()).pooled, atol=1e-5)


def test_a_vision_transformer_of_timm(tmp_path):
    import timm

    name = "vit_tiny_patch16_224"
    module = timm_vit(name, size=32).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    tokens = module(images)
    expected = module.model.forward_features(((images + 1) / 2 - mean) / std)
    assert tokens.shape == (2, 4, 192) and expected.shape[1] == 5 and torch.allclose(tokens, expected[:, 1:], atol=1e-5)
    assert torch.equal(timm_vit(name, size=32).eval()(images), tokens)         # random weights of one seed
    assert module(torch.rand(2, 1, 8, 8)).shape == (2, 4, 192)                 # one channel, another size
    other = timm.create_model(name, num_classes=0, img_size=32)
    save_file(other.state_dict(), tmp_path / "weights.safetensors")
    loaded = timm_vit(name, str(tmp_path / "weights.safetensors"), size=32).eval()
    assert torch.allclose(loaded(images), other.eval().forward_features(((images + 1) / 2 - mean) / std)[:, 1:], atol=1e-5)


def test_what_timm_does_not_have():
    with pytest.raises(UserError, match="timm has no model 'vit_tny_patch16_224'; did you mean 'vit_tiny_patch16_224'"):
        timm_vit("vit_tny_patch16_224")
