"""ADM's file of samples: an .npz with ``arr_0``, uint8 (N, H, W, C), and often labels ``arr_1``.

50,000 images of 256 pixels are 9.8 GB: the array is read from the zip's stream, forward, a batch at a time.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from ditscale.data.sources.base import checked_labels
from ditscale.digest import file_sha256
from ditscale.errors import UserError

IMAGES, LABELS = "arr_0", "arr_1"
PEEK = 1 << 20                                                                 # bytes looked at, to say the range of floats
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpzImages:
    """See ``ImageSet``."""

    def __init__(self, path: Path):
        self.path = path
        with self._stream() as (stream, shape, _):
            self.count, (height, width, channels) = shape[0], (*shape[1:], 1)[:3]
            self.shape = (channels, height, width)
        self.labels = self._read_labels()

    @cached_property
    def sha256(self) -> str:
        return file_sha256(self.path)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        channels, height, width = self.shape
        with self._stream() as (stream, _, __):
            for first in range(0, self.count, size):
                rows = min(size, self.count - first)
                images = np.frombuffer(self._exactly(stream, rows * prod(self.shape)), np.uint8)
                yield images.reshape(rows, height, width, channels).transpose(0, 3, 1, 2).copy()

    @contextmanager
    def _stream(self):
        """Yields the stream of the images' bytes, their shape and dtype. Damage met while it is read is the user's error."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                if f"{IMAGES}.npy" not in archive.namelist():
                    raise UserError(f"{self.path}: no array {IMAGES} in it, which holds images in ADM's files; it has "
                                    f"{', '.join(name.removesuffix('.npy') for name in archive.namelist()) or 'nothing'}")
                with archive.open(f"{IMAGES}.npy") as stream:
                    yield stream, *self._header(stream)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{self.path}: not a complete .npz file: {error}") from None

    def _header(self, stream) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and dtype; afterwards the stream stands at the first pixel."""
        try:
            shape, fortran_order, dtype = HEADERS[np.lib.format.read_magic(stream)](stream)
        except (ValueError, KeyError) as error:
            raise UserError(f"{self.path}: {IMAGES} is not a NumPy array: {error}") from None
        if dtype != np.uint8:
            raise UserError(f"{self.path}: {IMAGES} is {dtype}{_range(stream, dtype, prod(shape))}; images are needed as uint8, "
                            "0 to 255")
        if fortran_order or len(shape) not in (3, 4) or 0 in shape or (*shape, 1)[3] not in (1, 3):
            raise UserError(f"{self.path}: {IMAGES} has shape {shape}{' in Fortran order' if fortran_order else ''}; "
                            "(N, H, W, 3), (N, H, W, 1) or (N, H, W) is needed")
        return shape, dtype

    def _exactly(self, stream, size: int) -> bytes:
        """A zip's stream gives as much as it likes at a time."""
        parts, left = [], size
        while left:
            part = stream.read(left)
            if not part:
                raise UserError(f"{self.path}: {IMAGES} ends before its last image; the file was truncated")
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_labels(self) -> np.ndarray | None:
        try:
            with np.load(self.path) as file:
                return checked_labels(f"{self.path}: {LABELS}", file[LABELS], self.count) if LABELS in file.files else None
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{self.path}: {LABELS} is not an array of numbers: {error}") from None


def _range(stream, dtype: np.dtype, count: int) -> str:
    """``, from -1 to 1 where it begins`` for an array of numbers."""
    if dtype.kind not in "biuf" or not count:
        return ""
    raw = stream.read(min(PEEK, count * dtype.itemsize))
    seen = np.frombuffer(raw[:len(raw) // dtype.itemsize * dtype.itemsize], dtype)
    return f", from {seen.min():.3g} to {seen.max():.3g} where it begins"
