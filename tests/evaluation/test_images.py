"""Images from folders, zips, ADM's .npz and .beton files: the same pixels, in order, in little memory; and what is refused."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from ditscale.data.beton import write_beton
from ditscale.errors import UserError
from ditscale.evaluation.images import open_images


@pytest.fixture(scope="module")
def images():
    """(23, 3, 12, 9) uint8."""
    return np.random.default_rng(0).integers(0, 256, (23, 3, 12, 9), dtype=np.uint8)


def png(image) -> bytes:
    """A (C, H, W) image as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def whole(image_set, size=7):
    batches = list(image_set.batches(size))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    return np.concatenate(batches)


def check(image_set, images, labels=None):
    assert (image_set.count, image_set.shape) == (len(images), images.shape[1:])
    assert (whole(image_set) == images).all() and (whole(image_set, 100) == images).all()
    assert image_set.labels is None if labels is None else (image_set.labels == labels).all()
    assert len(image_set.sha256) == 64


def test_folder_and_zip(images, tmp_path):
    folder, archive = tmp_path / "samples", zipfile.ZipFile(tmp_path / "samples.zip", "w")
    folder.mkdir()
    with archive:
        for number, image in enumerate(images):
            (folder / f"{number:03d}.png").write_bytes(png(image))
            archive.writestr(f"{number:03d}.png", png(image))
    check(open_images(folder), images)
    check(open_images(tmp_path / "samples.zip"), images)
    before = open_images(folder).sha256
    (folder / "005.png").write_bytes(png(images[6]))
    assert open_images(folder).sha256 != before


def test_class_folders_have_labels(images, tmp_path):
    for number, image in enumerate(images):
        path = tmp_path / ("cat", "dog")[number >= 10] / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(image))
    check(open_images(tmp_path), images, np.arange(23) >= 10)


def test_grey_images(images, tmp_path):
    (tmp_path / "0.png").write_bytes(png(images[0, :1]))
    assert (whole(open_images(tmp_path)) == np.repeat(images[:1, :1], 3, axis=1)).all()
    check(open_images(tmp_path, channels=1), images[:1, :1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [1, 3])
def test_npz(images, tmp_path, save, channels):
    part = images[:, :channels]
    save(tmp_path / "s.npz", part.transpose(0, 2, 3, 1))
    check(open_images(tmp_path / "s.npz"), part)
    save(tmp_path / "s.npz", part.transpose(0, 2, 3, 1), np.arange(23) % 5)
    check(open_images(tmp_path / "s.npz"), part, np.arange(23) % 5)


def test_beton(images, tmp_path):
    write_beton(tmp_path / "s.beton", {"image": images, "label": np.arange(23)})
    check(open_images(tmp_path / "s.beton"), images, np.arange(23))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_streamed(tmp_path, save):
    """64 MB of images pass through less than 4 MB of memory."""
    save(tmp_path / "s.npz", arr_0=np.zeros((1300, 128, 128, 3), np.uint8) + np.arange(128, dtype=np.uint8)[:, None])
    tracemalloc.start()
    try:
        image_set = open_images(tmp_path / "s.npz")
        assert sum(len(batch) for batch in image_set.batches(16)) == 1300
        assert len(image_set.sha256) == 64
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("arrays, words", [
    ({"arr_0": np.linspace(-1, 1, 96, dtype=np.float32).reshape(2, 4, 4, 3)}, "float32, from -1 to 1 .* uint8, 0 to 255"),
    ({"arr_0": np.full((2, 4, 4, 3), 255.0)}, "float64, from 255 to 255"),
    ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"shape \(2, 3, 4, 4\)"),
    ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, "shape"),
    ({"arr_0": np.asfortranarray(np.zeros((2, 4, 4, 3), np.uint8))}, "Fortran"),
    ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.arange(3)}, r"shape \(3,\) for 2 images"),
    ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.array([0.5, 1])}, "integers"),
    ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.array(["cat", None])}, "not an array of numbers"),
    ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, "no array arr_0 .* it has images"),
])
def test_wrong_npz(arrays, words, tmp_path):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(UserError, match=words):
        open_images(tmp_path / "s.npz")


def test_damaged_files(images, tmp_path):
    np.savez(tmp_path / "s.npz", images.transpose(0, 2, 3, 1))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:2000])
    with pytest.raises(UserError, match="not a complete .npz"):
        open_images(tmp_path / "cut.npz")
    with zipfile.ZipFile(tmp_path / "s.npz") as file, zipfile.ZipFile(tmp_path / "short.npz", "w") as short:
        short.writestr("arr_0.npy", file.read("arr_0.npy")[:-5])
    with pytest.raises(UserError, match="ends before its last image"):
        whole(open_images(tmp_path / "short.npz"))
    (tmp_path / "folder").mkdir()
    for number in range(3):
        (tmp_path / "folder" / f"{number}.png").write_bytes(png(images[number])[:-100 if number == 2 else None])
    with pytest.raises(UserError, match="2.png cannot be read"):
        whole(open_images(tmp_path / "folder"))


def test_wrong_folders(images, tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_images(tmp_path / "none")
    with pytest.raises(UserError, match="no images in it"):
        open_images(tmp_path)
    (tmp_path / "a.png").write_bytes(png(images[0]))
    (tmp_path / "b.png").write_bytes(png(images[1][:, :5]))
    with pytest.raises(UserError, match="b.png is 9 x 5 pixels, but a.png is 9 x 12"):
        whole(open_images(tmp_path))
    Image.fromarray(np.zeros((12, 9), np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match="not of 8 bits"):
        whole(open_images(tmp_path))
    (tmp_path / "s.csv").write_text("x")
    with pytest.raises(UserError, match="not a set of images"):
        open_images(tmp_path / "s.csv")
    write_beton(tmp_path / "latents.beton", {"moments": np.zeros((3, 2, 2, 4, 4, 4), np.int16), "label": np.arange(3)})
    with pytest.raises(UserError, match="holds latents"):
        open_images(tmp_path / "latents.beton")
