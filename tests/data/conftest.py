"""A small file of several pages and its source arrays; small images."""

import io
import resource
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ditscale.data.beton import write_beton


@pytest.fixture(scope="session")
def source():
    """45 images of 98 kB, so that a page of 2 MiB holds 21 of them, and labels with negative and large values."""
    random = np.random.default_rng(0)
    labels = random.integers(-5, 2**40, 45)
    return {"image": random.integers(0, 256, (45, 2, 224, 219), dtype=np.uint8), "label": labels}


@pytest.fixture(scope="session")
def stored(source, tmp_path_factory):
    """The source written by numpy: ``.path``, ``.images``, ``.labels``."""
    path = tmp_path_factory.mktemp("stored") / "images.beton"
    write_beton(path, source)
    return SimpleNamespace(path=path, images=source["image"], labels=source["label"])


@pytest.fixture(scope="session")
def ffcv_backend():
    """The module that touches FFCV; tests that need it are skipped where FFCV does not import."""
    from ditscale.data.ffcv_import import load_ffcv

    backend, reason = load_ffcv()
    if backend is None:
        pytest.skip(reason)
    return backend


@pytest.fixture(params=["ffcv", "mmap"])
def backend(request):
    """Both loaders in turn."""
    if request.param == "ffcv":
        request.getfixturevalue("ffcv_backend")
    return request.param


@pytest.fixture(scope="session")
def photos():
    """``{name: PNG bytes}`` of 12 images of odd shapes in two class folders; the same file names come in both."""
    random, made = np.random.default_rng(0), {}
    for number in range(6):
        for name in ("cat", "dog"):
            height, width = random.integers(9, 60, 2)
            buffer = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
            made[f"{name}/{number}.png"] = buffer.getvalue()
    return made


@pytest.fixture
def tree(tmp_path):
    """``tree(files)`` writes ``{name: bytes}`` below a new folder and returns it."""
    def write(files, name="source"):
        for inner, content in files.items():
            path = tmp_path / name / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / name
    return write


@pytest.fixture
def files_limited_to():
    """``with files_limited_to(size)``: no file of this process may grow beyond ``size`` bytes: what a full disk looks like."""
    @contextmanager
    def limited(size):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return limited


@pytest.fixture(scope="session")
def pixels(tmp_path_factory):
    """45 noise images of 3 x 32 x 32 in 5 classes, with a manifest: the path."""
    from ditscale.data.manifest import Manifest, content_sha256, write_manifest

    path = tmp_path_factory.mktemp("pixels") / "train.beton"
    images, labels = np.random.default_rng(0).integers(0, 256, (45, 3, 32, 32), dtype=np.uint8), np.arange(45) % 5
    write_beton(path, {"image": images, "label": labels})
    write_manifest(path, Manifest(
        name="noise", split="train", samples=45, shape=[3, 32, 32], classes=5, class_counts=[9] * 5, source="a test",
        source_sha256="0" * 64, content_sha256=content_sha256(images, labels), writer="numpy", ditscale_version="test",
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
