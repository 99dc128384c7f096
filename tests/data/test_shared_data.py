"""The sample archives build as they are, and every stored pixel is Pillow's, cropped."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from ditscale.data.beton import BetonFile
from ditscale.data.build import build_images
from ditscale.data.manifest import read_manifest


def cropped(content: bytes, size: int) -> np.ndarray:
    """(3, size, size) by the crop's rule, written once more."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize([side // 2 for side in image.size], Image.BOX)
    image = image.resize([round(side * (size / min(image.size))) for side in image.size], Image.BICUBIC)
    pixels = np.array(image)
    pixels = pixels[(pixels.shape[0] - size) // 2:][:size, (pixels.shape[1] - size) // 2:][:, :size]
    return pixels.transpose(2, 0, 1)


def members(path, most=None):
    """``{name: bytes}`` of the first files of a tar."""
    found = {}
    with tarfile.open(path, "r|*") as tar:
        for member in tar:
            found[member.name] = tar.extractfile(member).read()
            if len(found) == most:
                break
    return found


def check(files: dict[str, bytes], beton, size: int) -> None:
    """Every image and label of the file is that of its source."""
    file, names = BetonFile(beton), sorted(files)
    assert file.num_samples == len(names)
    classes = sorted({name.split("/")[1] for name in names})
    assert read_manifest(beton).class_names == classes
    labels = file.read("label", np.arange(len(names)))
    for index, name in enumerate(names):
        assert (file.read("image", [index])[0] == cropped(files[name], size)).all(), name
        assert labels[index] == classes.index(name.split("/")[1])


def test_some_of_cifar10(shared, tmp_path):
    """400 images of two classes, packed again as the whole is."""
    files = dict(list(members(shared / "cifar10_jpeg.tar.xz", 1200).items())[800:])
    with tarfile.open(tmp_path / "some.tar.xz", "w:xz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    build_images(tmp_path / "some.tar.xz", tmp_path / "x.beton", size=32, workers=1)
    assert read_manifest(tmp_path / "x.beton").class_counts == [200, 200]
    check(files, tmp_path / "x.beton", 32)


def test_imagenette(shared, tmp_path):
    """All 1,000 photographs, portraits and greyscale ones among them."""
    summary = build_images(shared / "imagenette224_10x100.tar", tmp_path / "x.beton", size=64, workers=2)
    assert summary.manifest.class_counts == [100] * 10 and summary.manifest.handled["greyscale"] > 0
    check(members(shared / "imagenette224_10x100.tar"), tmp_path / "x.beton", 64)


@pytest.mark.slow
@pytest.mark.parametrize("split, count", [("train", 5000), ("test", 1000)])
def test_all_of_cifar10(shared, tmp_path, split, count):
    summary = build_images(shared / "cifar10_jpeg.tar.xz", tmp_path / "x.beton", size=32, split=split, workers=2)
    assert summary.manifest.class_counts == [count] * 10 and summary.manifest.split == split
    files = {name: content for name, content in members(shared / "cifar10_jpeg.tar.xz").items() if name.startswith(split)}
    check(files, tmp_path / "x.beton", 32)


@pytest.mark.slow
def test_imagenette_at_256(shared, tmp_path):
    build_images(shared / "imagenette224_10x100.tar", tmp_path / "x.beton", size=256, workers=2)
    check(members(shared / "imagenette224_10x100.tar"), tmp_path / "x.beton", 256)
