"""CIFAR-10's features in a ResNet-20, an Inception with random weights, and run directories written by hand."""

import copy
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ditscale.config import resolve
from ditscale.dotted import set_key
from ditscale.rundir import RunDir


def read_cifar(path, most: dict[str, int]) -> dict[str, np.ndarray]:
    """The first images of each class: ``{"test": (N, 3, 32, 32)}``, classes side by side, ``most`` images of each class."""
    found = {split: {} for split in most}
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            split, _, name = member.name.removeprefix("./").partition("/")
            images = found.get(split, {}).setdefault(name.split("/")[0], [])
            if split in found and member.isfile() and len(images) < most[split]:
                images.append(np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")))
    return {split: np.concatenate([np.stack(images) for _, images in sorted(classes.items()) if images]).transpose(0, 3, 1, 2)
            for split, classes in found.items()}


@pytest.fixture(scope="session")
def resnet20(shared):
    """The extractor, with the weights of the sample data."""
    from ditscale.evaluation.extractors.make import make_extractor

    return make_extractor("resnet20_cifar10", shared / "weights" / "resnet20-12fca82f.th")


@pytest.fixture(scope="session")
def cifar(shared):
    """Test images (1000, 3, 32, 32) of CIFAR-10, 100 of each class."""
    return read_cifar(shared / "cifar10_jpeg.tar.xz", {"test": 100})["test"]


@pytest.fixture(scope="session")
def pooled(resnet20):
    """``pooled(images)`` gives ResNet-20 features (N, 64)."""
    import torch

    def features(images):
        return torch.cat([resnet20(part).pooled for part in torch.from_numpy(np.ascontiguousarray(images)).split(256)]).numpy()
    return features


@pytest.fixture(scope="session")
def cifar_features(pooled, cifar):
    return pooled(cifar)


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A weights file of random numbers in the Inception network's shapes."""
    import torch
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    generator, kept = torch.Generator().manual_seed(0), {}

    class Shapes(fidelity.FeatureExtractorInceptionV3):
        """The constructor asks for a file; here it is told that all is well."""

        def load_state_dict(self, *_):
            kept.update(self.state_dict())

    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save({}, path)
    Shapes("shapes", ["2048"], str(path))
    for name, value in kept.items():
        if name.endswith("conv.weight"):
            fan_in = value[0].numel()
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5)
        elif name.endswith("bn.bias"):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif name.startswith("fc."):
            value.copy_(0.05 * torch.randn(value.shape, generator=generator))
    torch.save(kept, path)
    return path


@pytest.fixture(scope="session")
def sign():
    """``sign(folder)``: a checkpoint's state.json says that its files are as they stand now."""
    from ditscale.digest import file_sha256

    def write(folder):
        sha256 = {path.name: file_sha256(path) for path in folder.glob("*.safetensors")}
        (folder / "state.json").write_text(json.dumps({"images_seen": int(folder.name.removeprefix("images-")), "sha256": sha256}))
    return write


@pytest.fixture
def hand_run(values, sign, tmp_path):
    """``hand_run({key: value}, checkpoints=(640,), averages=("ema",))``: a run whose every average has weights of its own."""
    import torch
    from safetensors.torch import save_file

    from ditscale.objectives.from_config import build_model

    def make(changes={}, checkpoints=(640,), averages=("ema",), name="run"):
        chosen = copy.deepcopy(values)
        for key, value in changes.items():
            set_key(chosen, key, value)
        config, run = resolve(chosen, "test"), RunDir(tmp_path / name)
        run.create({"run_id": name, "config": config.model_dump(mode="json")})
        random, model = torch.Generator().manual_seed(0), build_model(config)
        for images in checkpoints:
            folder = run.checkpoints / f"images-{images:012d}"
            folder.mkdir(parents=True)
            for average in averages:
                weights = {name: torch.randn(p.shape, generator=random) * 0.15 for name, p in model.named_parameters()}
                save_file(weights, folder / f"{average}.safetensors")
            sign(folder)
        return run
    return make


@pytest.fixture
def pixel_values(values, pixels):
    """``values`` on the noise images of 3 x 32 x 32; sampled in batches of 8 without an end to divide by."""
    values["model"]["name"] = "DiT-atto/8"
    values["data"] |= {"path": str(pixels), "resolution": 32, "channels": 3, "classes": 5}
    values["evaluation"] |= {"batch": 8, "guidance_scale": 1.5, "seed": 4}
    return values


@pytest.fixture
def latent_values(values, latents, vae_folders):
    """``values`` on latents of 4 x 4 x 4, with the autoencoder that made them."""
    values["model"]["name"] = "DiT-atto/2"
    values["data"] |= {"path": str(latents), "resolution": 4, "channels": 4, "classes": 5}
    values["evaluation"] |= {"batch": 8, "vae": vae_folders["kl"], "seed": 4}
    return values


@pytest.fixture(scope="session")
def whole_cifar(shared):
    """All images of CIFAR-10: ``{"train": (50000, 3, 32, 32), "test": (10000, 3, 32, 32)}``, classes side by side."""
    return read_cifar(shared / "cifar10_jpeg.tar.xz", {"train": 5000, "test": 1000})
