"""Feature networks: Inception against torch-fidelity's whole path, DINOv2 against timm and Meta's rule, others and wrong use."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ditscale.digest import file_sha256
from ditscale.errors import UserError
from ditscale.evaluation.extractors import IMAGENET_MEAN, IMAGENET_STD, Features
from ditscale.evaluation.extractors.inception import WEIGHTS_SHA256, make_inception
from ditscale.evaluation.extractors.make import make_extractor


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 40, 32), dtype=np.uint8))


@pytest.fixture(scope="module")
def inception(inception_weights):
    return make_inception(inception_weights, expected_sha256=file_sha256(inception_weights))


def test_inception_equals_torch_fidelity(inception, inception_weights, images):
    fidelity = pytest.importorskip("torch_fidelity.utils")
    theirs = fidelity.create_feature_extractor("inception-v3-compat", ["2048", "logits_unbiased"], cuda=False, verbose=False,
                                               feature_extractor_weights_path=str(inception_weights))
    pooled, logits = theirs(images)
    ours = inception(images)
    assert pooled.std() > 0.01 and logits.std() > 0.01
    assert torch.allclose(ours.pooled, pooled, rtol=1e-4, atol=1e-4) and ours.pooled.shape == (3, 2048)
    assert torch.allclose(ours.logits, logits, rtol=1e-4, atol=1e-4) and ours.logits.shape == (3, 1008)


def test_spatial_features_are_in_the_order_of_tensorflow(inception, images):
    """Feature (17 h + w) 7 + c is channel c of the first branch of Mixed_6d at (h, w)."""
    seen = {}
    handle = inception.module.network.Mixed_6d.register_forward_hook(lambda _, __, output: seen.update(mixed=output.clone()))
    spatial = inception(images).spatial
    handle.remove()
    assert spatial.shape == (3, 2023) and spatial.std() > 0
    for h, w, c in ((0, 0, 0), (0, 0, 6), (3, 16, 2), (16, 5, 4)):
        assert torch.equal(spatial[:, (17 * h + w) * 7 + c], seen["mixed"][:, c, h, w])


def test_inception_repeats_grey(inception, images):
    assert torch.equal(inception(images[:, :1]).pooled, inception(images[:, :1].repeat(1, 3, 1, 1)).pooled)


def test_other_weights_are_not_inception(inception_weights):
    with pytest.raises(UserError) as error:
        make_extractor("inception", inception_weights)
    assert WEIGHTS_SHA256 in str(error.value) and file_sha256(inception_weights) in str(error.value) and "FID" in str(error.value)


def test_torch_fidelity_is_missing(inception_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(UserError, match=r"pip install 'ditscale\[inception\]'"):
        make_inception(inception_weights, expected_sha256=file_sha256(inception_weights))


@pytest.fixture(scope="module")
def small_dinov2(tmp_path_factory):
    """A state dict of a ViT-T/14 in DINOv2's form, at 518 pixels, in Meta's names and in timm's; and the path of each."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_dinov2.lvd142m", pretrained=False, num_classes=0, depth=2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    folder, state = tmp_path_factory.mktemp("dinov2"), network.state_dict()
    save_file(state, folder / "timm.safetensors")
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, folder / "meta.pth")
    return network, folder


def test_dinov2_is_edm2s(small_dinov2, images, monkeypatch):
    import timm

    from ditscale.evaluation.extractors import dinov2

    network, folder = small_dinov2
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, depth=2, **options))
    made = [dinov2.make_dinov2(folder / name, architecture="vit_small_patch14_dinov2.lvd142m")
            for name in ("timm.safetensors", "meta.pth")]
    assert made[0].sha256 == made[1].sha256

    x = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True) / 255
    x = (x - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    grid = network.pos_embed[:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic", antialias=False)
    with torch.inference_mode():
        x = network.patch_embed.proj(x).flatten(2).transpose(1, 2)
        positions = torch.cat([network.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], 1)
        x = torch.cat([network.cls_token.expand(3, -1, -1), x], 1) + positions
        truth = network.norm(network.blocks(x))[:, 0]
    assert truth.shape == (3, 384) and made[0].dimensions == 384
    for extractor in made:
        assert torch.allclose(extractor(images).pooled, truth, rtol=1e-4, atol=1e-4)


def test_resnet20_knows_cifar(resnet20, cifar):
    with torch.inference_mode():
        guess = torch.cat([resnet20(part).logits for part in torch.from_numpy(cifar.copy()).split(256)]).argmax(1)
    assert (guess == torch.arange(10).repeat_interleave(100)).float().mean() > 0.78            # 92 % before they became JPEG q75
    features = resnet20(torch.from_numpy(cifar[:5].copy()))
    assert torch.allclose(resnet20.module.linear(features.pooled), features.logits) and features.pooled.shape == (5, 64)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3, 5).double()

    def forward(self, images):
        return self.linear(images.double().mean((2, 3)))


class Wrong(Own):
    def forward(self, images):
        return super().forward(images).sum()


@pytest.fixture
def own_module(monkeypatch):
    """A module ``mine`` that can be imported."""
    module = ModuleType("mine")
    module.Own, module.instance, module.Wrong, module.number = Own, Own(), Wrong, 3
    module.features = lambda: nn.Sequential(Own(), Answer())
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


class Answer(nn.Module):
    def forward(self, x):
        return Features(x, logits=x[:, :2])


def test_a_network_of_ones_own(own_module, images):
    made = make_extractor("mine:Own")
    truth = Own()(images).float()
    assert torch.equal(made(images).pooled, truth) and made.name == "mine:Own"
    assert torch.equal(make_extractor("mine:instance")(images).pooled, truth)
    assert torch.equal(make_extractor("mine:features")(images).logits, truth[:, :2])
    assert make_extractor("mine:instance").sha256 == made.sha256
    with torch.no_grad():
        own_module.instance.linear.bias[0] += 1e-9
    assert make_extractor("mine:instance").sha256 != made.sha256


def test_weights_for_a_network_of_ones_own(own_module, images, tmp_path):
    other = Own()
    nn.init.ones_(other.linear.weight)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "w.pth")
    assert torch.equal(make_extractor("mine:Own", tmp_path / "w.pth")(images).pooled, other(images).float())
    torch.save({"else": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="w.pth: is not a mine:Own"):
        make_extractor("mine:Own", tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="contains no weights"):
        make_extractor("mine:Own", tmp_path / "w.pth")


@pytest.mark.parametrize("name, words", [
    ("inceptoin", "did you mean 'inception'"),
    ("inception", "inception needs the path of its weights"),
    ("dinov2", "dinov2 needs the path of its weights"),
    ("mine:Nothing", "no attribute 'Nothing'"),
    ("not_there:Own", "No module named 'not_there'"),
    ("mine:number", "is a int"),
])
def test_wrong_names(own_module, name, words):
    with pytest.raises(UserError, match=words):
        make_extractor(name)


def test_wrong_images(digits, own_module, images):
    extractor = make_extractor("digits_cnn", digits / "digits_cnn.safetensors")
    assert extractor(images[:, :1, :8, :8]).pooled.shape == (3, 64) and extractor(images[:, :1]).logits.shape == (3, 10)
    with pytest.raises(UserError, match="uint8, 0 to 255; these are float32"):
        extractor(images[:, :1] / 255)
    with pytest.raises(UserError, match=r"with 1 channel; these are \(3, 40, 32\)"):
        extractor(images)
    with pytest.raises(UserError, match=r"1 or 3 channels"):
        make_extractor("mine:Own")(images[:, :2])
    with pytest.raises(UserError, match="returns .* for 3 images"):
        make_extractor("mine:Wrong")(images)


def test_resnet20_takes_32_pixels(resnet20, images):
    with pytest.raises(UserError, match=r"of 32 x 32 pixels with 3 channels; these are \(3, 40, 32\)"):
        resnet20(images)
