"""Images to be scored, from any kind of file or folder, read in order and in batches."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from ditscale.data.beton import BetonFile
from ditscale.data.kinds import image_shape, kind_of
from ditscale.data.manifest import manifest_path, read_manifest, stored_blake2b
from ditscale.errors import UserError


class ImageSet(Protocol):
    """uint8 images of one size, in a fixed order.

    Attributes:
        path: where they lie.
        count: how many.
        shape: channels, height and width.
        labels: int64 (count,), or None where classes are not known.
        sha256: stands for the content. Of a folder it covers names and files, of an archive the whole file, of a .beton file
            what its manifest says of the pixels and labels: the same images kept in two ways have two hashes.
    """

    path: Path
    count: int
    shape: tuple[int, int, int]
    labels: np.ndarray | None

    @property
    def sha256(self) -> str: ...

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yields all images, uint8 (size, C, H, W), the last batch shorter; each call starts from the first.

        Raises:
            UserError: an image cannot be read, or is not of ``shape``.
        """


def open_images(path, *, split: str | None = None, channels: int = 3) -> ImageSet:
    """The images of a folder or .zip of image files, of ADM's .npz, or of a .beton file.

    Args:
        split: the part to take, where a folder or archive has several (train, test).
        channels: what image files are decoded to, 1 or 3; arrays are taken as they are.

    Raises:
        UserError: the path is none of these, is damaged, or holds no images of uint8.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir() or path.suffix.lower() == ".zip":
        from ditscale.evaluation.images.files import FileImages

        return FileImages(path, split, channels)
    if split is not None:
        raise UserError(f"--split {split}: {path} has no splits; leave --split out")
    if path.suffix.lower() == ".npz":
        from ditscale.evaluation.images.npz import NpzImages

        return NpzImages(path)
    if path.suffix.lower() == ".beton":
        return BetonImages(path)
    raise UserError(f"{path}: not a set of images; give a folder or a .zip of image files, an .npz with arr_0, or a .beton file")


class BetonImages:
    """See ``ImageSet``: the pixels of a .beton file, as training reads them."""

    def __init__(self, path: Path):
        self.path, self._file = path, BetonFile(path)
        if kind_of(self._file) != "pixels":
            raise UserError(f"{path}: holds latents; scores need the pixels that they were encoded from")
        self.count, self.shape = self._file.num_samples, image_shape(self._file)
        self.labels = self._file.read("label", np.arange(self.count))

    @cached_property
    def sha256(self) -> str:
        has_manifest = manifest_path(self.path).exists()
        content = read_manifest(self.path).content_blake2b if has_manifest else stored_blake2b(self._file)
        return hashlib.sha256(bytes.fromhex(content)).hexdigest()

    def batches(self, size: int) -> Iterator[np.ndarray]:
        for first in range(0, self.count, size):
            yield self._file.read("image", np.arange(first, min(first + size, self.count)))
