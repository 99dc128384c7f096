"""Image files in a folder or a .zip, flat or in class folders. Listed as training data is; pixels as Pillow decodes them."""

import hashlib
import io
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ditscale.data.sources.archive import DAMAGE, open_zip
from ditscale.data.sources.base import Request
from ditscale.data.sources.folder import open_folder
from ditscale.digest import file_sha256
from ditscale.errors import UserError

EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")        # Pillow's modes


class FileImages:
    """See ``ImageSet``. Images are neither cropped, resized nor turned: what a file holds is what is scored."""

    def __init__(self, path: Path, split: str | None, channels: int):
        request = Request(path, labels=None, split=split, scratch=path.parent, as_images=True)
        try:
            self._source = open_folder(request) if path.is_dir() else open_zip(request)
        except OSError as error:
            raise UserError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from None
        self.path, self.count, self._channels = path, len(self._source.names), channels
        self.labels = self._source.labels if self._source.class_names or self._source.labels.any() else None
        self.shape = self._decode(0).shape

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        if self.path.is_file():
            return file_sha256(self.path)
        for index, name in enumerate(self._source.names):
            digest.update(name.encode() + b"\0" + hashlib.sha256(self._read(index)).digest())
        return digest.hexdigest()

    def batches(self, size: int) -> Iterator[np.ndarray]:
        for first in range(0, self.count, size):
            yield np.stack([self._checked(index) for index in range(first, min(first + size, self.count))])

    def _checked(self, index: int) -> np.ndarray:
        image = self._decode(index)
        if image.shape != self.shape:
            (_, height, width), (_, first_height, first_width), names = image.shape, self.shape, self._source.names
            raise UserError(f"{self.path}: {names[index]} is {width} x {height} pixels, but {names[0]} is "
                            f"{first_width} x {first_height}; features need images of one size, as `ditscale data build` makes")
        return image

    def _decode(self, index: int) -> np.ndarray:
        """(C, H, W)"""
        try:
            image = Image.open(io.BytesIO(self._read(index)))
            if image.mode not in EIGHT_BIT:
                raise ValueError(f"its pixels are not of 8 bits (mode {image.mode}); save them as uint8, 0 to 255")
            pixels = np.array(image.convert("RGB" if self._channels == 3 else "L"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:      # what Pillow raises on damage
            raise UserError(f"{self.path}: {self._source.names[index]} cannot be read: {error}") from None
        return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))

    def _read(self, index: int) -> bytes:
        try:
            encoded = self._source.reader.read(self._source.places[index])
        except (OSError, *DAMAGE) as error:
            raise UserError(f"{self.path}: {self._source.names[index]} cannot be read: {error}") from None
        assert isinstance(encoded, bytes), "a folder or archive holds image files, not pixels"
        return encoded
