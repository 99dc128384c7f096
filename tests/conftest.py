"""Values that many tests start from."""

import copy
import importlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

BASE = {
    "model": {"name": "DiT-atto/4"},
    "data": {"name": "digits", "path": "data/digits/train.beton", "resolution": 8, "channels": 1, "classes": 10},
    "formulation": {"name": "flow"},
    "objective": {"name": "baseline"},
    "train": {"images": 640, "global_batch": 64, "lr": 1e-3, "ema_decay": 0.9, "checkpoint_every_images": 320},
    "evaluation": {"extractor_path": "data/digits/digits_cnn.safetensors", "reference_path": "data/digits/heldout.beton",
                   "samples": 64, "sampling_steps": 3},
}


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test draws the same numbers in every run, alone or among others."""
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def values():
    """A valid run config as plain values, to be changed at will."""
    return copy.deepcopy(BASE)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder with the demo's data and feature network, built once."""
    from ditscale.data.digits import build_digits
    from ditscale.evaluation.extractors.digits_cnn import train_digits_cnn

    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder)
    train_digits_cnn(folder / "train.beton", folder / "heldout.beton", folder / "digits_cnn.safetensors")
    return folder


@pytest.fixture
def digits_values(values, digits):
    """``values`` with paths into the built data."""
    values["data"]["path"] = str(digits / "train.beton")
    values["evaluation"]["extractor_path"] = str(digits / "digits_cnn.safetensors")
    values["evaluation"]["reference_path"] = str(digits / "heldout.beton")
    return values


@pytest.fixture(scope="session")
def pixels(tmp_path_factory):
    """45 noise images of 3 x 32 x 32 in 5 classes, with a manifest: the path."""
    from ditscale.data.beton import write_beton
    from ditscale.data.manifest import Manifest, content_blake2b, write_manifest

    path = tmp_path_factory.mktemp("pixels") / "train.beton"
    images, labels = np.random.default_rng(0).integers(0, 256, (45, 3, 32, 32), dtype=np.uint8), np.arange(45) % 5
    write_beton(path, {"image": images, "label": labels})
    write_manifest(path, Manifest(
        name="noise", split="train", samples=45, shape=[3, 32, 32], classes=5, class_counts=[9] * 5, source="a test",
        source_blake2b="0" * 64, content_blake2b=content_blake2b(images, labels), writer="numpy", ditscale_version="test",
        class_names=["ant", "bee", "cat", "dog", "eel"]))
    return path


@pytest.fixture(scope="session")
def vae_folders(tmp_path_factory):
    """Autoencoders with random weights that make 4 x 4 x 4 latents of 32 pixels: ``{"kl": folder, "tiny": folder}``."""
    import diffusers
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    diffusers.AutoencoderKL(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 4,
                            up_block_types=("UpDecoderBlock2D",) * 4, shift_factor=0.25).save_pretrained(folder / "kl")
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    diffusers.AutoencoderTiny(**widths).save_pretrained(folder / "tiny")
    return {"kl": str(folder / "kl"), "tiny": str(folder / "tiny")}


@pytest.fixture(scope="session")
def latents(pixels, vae_folders, tmp_path_factory):
    """The pixels encoded by the KL encoder, in micro batches of 4: the path."""
    from ditscale.data.encode import encode
    from ditscale.data.vae import load_vae

    path = tmp_path_factory.mktemp("latents") / "train.beton"
    encode(pixels, path, load_vae(vae_folders["kl"], "cpu"), batch=4, say=lambda line: None)
    return path


@pytest.fixture(scope="session")
def latent_files():
    """The module that writes others' latents by their tools' rules: ``make(form, folder)``."""
    path = Path(__file__).parent / "data" / "importing" / "latent_files.py"
    spec = importlib.util.spec_from_file_location("latent_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def counted_flops():
    """``counted_flops(work)``: the FLOPs of a call by PyTorch's own counter.

    Attention runs as plain products: which fused kernel a machine takes, and whether the counter knows it, changes with the
    processor and with torch's version (2.14's does not know the CPU's flash attention). The fused backward also takes a product more.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    def count(work):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()
    return count


@pytest.fixture(scope="session")
def real_step():
    """``real_step(config, images)``: a training step on so many random 8 x 8 images as a function: all passes, the teacher's, the losses, the backward."""
    import torch

    from ditscale import randomness
    from ditscale.objectives.from_config import build_model, make_objective
    from ditscale.objectives.objective import CleanBatch

    def make(config, images):
        model, objective = build_model(config), make_objective(config)
        if objective.has_teacher:
            objective.teacher = copy.deepcopy(model).requires_grad_(False)
        draws = randomness.draw(0, torch.arange(images), objective.streams)
        batch = CleanBatch(torch.randn(images, 1, 8, 8), torch.arange(images))
        return lambda: objective(model, batch, draws).loss.backward()
    return make


@pytest.fixture(scope="session")
def repository():
    """The root of the checkout."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def benchmark_module(repository):
    """A benchmark's module by name, so that what is printed and what is tested are one. Benchmarks import one another by name."""
    def load(name):
        sys.path.insert(0, str(repository / "benchmarks"))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.pop(0)
    return load


@pytest.fixture(scope="session")
def shared_folder(repository):
    """Finds a folder of given data, which lies beside the checkout or where DITSCALE_SHARED says; skips without it."""
    def find(name):
        folder = Path(os.environ.get("DITSCALE_SHARED", repository.parent / "shared")) / name
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there; set DITSCALE_SHARED to the folder above {name}/")
        return folder
    return find


@pytest.fixture(scope="session")
def shared(shared_folder):
    """The folder of sample data."""
    return shared_folder("data")


@pytest.fixture(scope="session")
def inputs(shared_folder):
    """The folder of inputs that once went wrong."""
    return shared_folder("inputs")


@pytest.fixture(scope="session")
def scaling_data(shared_folder):
    """The folder of other people's points to fit."""
    return shared_folder("scaling_data")
