"""The images of a .beton file of pixels, as training reads them."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from ditscale.data.beton import BetonFile
from ditscale.data.kinds import image_shape, kind_of
from ditscale.data.manifest import manifest_path, read_manifest, stored_blake2b
from ditscale.errors import UserError


class BetonImages:
    """See ``ImageSet``."""

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
