"""The images of a .beton file of pixels, as training reads them."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from ditscale.data.beton import BetonFile
from ditscale.data.kinds import image_shape, kind_of
from ditscale.data.manifest import manifest_path, read_manifest, stored_sha256
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
        return read_manifest(self.path).content_sha256 if manifest_path(self.path).exists() else stored_sha256(self._file)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        for first in range(0, self.count, size):
            yield self._file.read("image", np.arange(first, min(first + size, self.count)))
