"""A shard of MosaicML Streaming's (MDS) and a column of it: see ``mds`` for the format."""

import bz2
import gzip
import lzma
import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ditscale.errors import UserError, count, first_line

INDEX = "index.json"
DTYPES = {8: "u1", 9: "i1", 16: "<u2", 17: "<i2", 18: "<f2", 32: "<u4", 33: "<i4", 34: "<f4", 64: "<u8", 65: "<i8", 66: "<f8"}
SHAPES = ("<u1", "<u2", "<u4", "<u8")                                          # dtypes of a shape, by the lower two bits of the byte before it
ERRORS = (zlib.error, EOFError, OSError, lzma.LZMAError, ValueError)


@dataclass(frozen=True)
class Shard:
    path: Path                                                                 # the existing file
    compression: str | None                                                    # of that file
    bytes: int                                                                 # of the shard, not compressed
    samples: int
    names: list[str]
    encodings: list[str]
    sizes: list[int | None]


@dataclass(frozen=True)
class Column:
    """A column of latents."""

    name: str
    dtype: np.dtype | None                                                     # None: stored in each sample
    shape: tuple[int, ...] | None

    def read(self, content: memoryview, where: str) -> np.ndarray:
        """The array of one sample. Raises UserError if the bytes are not such an array."""
        try:
            dtype, shape, at = self.dtype, self.shape, 0
            if dtype is None:
                dtype, at = np.dtype(DTYPES[content[0]]), 1
            if shape is None:
                axes, code = np.dtype(SHAPES[content[at] % 4]), content[at] >> 2
                shape = tuple(np.frombuffer(content, axes, code, at + 1).tolist())
                at += 1 + code * axes.itemsize
            return np.frombuffer(content, dtype, offset=at).reshape(shape)
        except (ValueError, KeyError, IndexError) as error:
            raise UserError(f"{where}: damaged: column '{self.name}' is no array: {first_line(error)}") from None


class Values:
    """A column of a shard: where each sample's bytes are, found for all samples together.

    Raises:
        UserError: the shard is damaged.
    """

    def __init__(self, shard: Shard, name: str):
        self._shard, self._content, at = shard, content_of(shard), shard.names.index(name)
        self._bytes = np.frombuffer(self._content, np.uint8)
        starts = np.frombuffer(self._content, "<u4", min(shard.samples + 2, len(self._content) // 4)).astype(np.int64)
        if len(starts) != shard.samples + 2 or starts[0] != shard.samples or starts[-1] != len(self._content) or (np.diff(starts[1:]) < 0).any():
            raise UserError(f"{shard.path}: damaged: its header does not state {count(shard.samples, 'sample')} in {len(self._content):,} bytes")
        starts, ends = starts[1:-1], starts[2:]
        free = [column for column, size in enumerate(shard.sizes) if size is None]
        bodies = starts + 4 * len(free)
        self._stop(bodies > ends, "ends before its first column")
        sizes = np.broadcast_to(np.array([size or 0 for size in shard.sizes], np.int64), (shard.samples, len(shard.sizes))).copy()
        for place, column in enumerate(free):
            sizes[:, column] = self._gathered(starts + 4 * place, 4).view("<u4")[:, 0]
        self._stop(bodies + sizes.sum(1) != ends, "has columns that do not fill it")
        self._firsts, self._sizes = bodies + sizes[:, :at].sum(1), sizes[:, at]

    def __iter__(self) -> Iterator[memoryview]:
        return map(self._of, range(self._shard.samples))

    def numbers(self, dtype: str) -> np.ndarray | None:
        """A column of one number per sample; None if one has another size."""
        size = np.dtype(dtype).itemsize
        return self._gathered(self._firsts, size).view(dtype)[:, 0] if (self._sizes == size).all() else None

    def array(self, column: Column, number: int) -> np.ndarray:
        return column.read(self._of(number), f"{self._shard.path}: sample {number}")

    def alike(self, column: Column, first: np.ndarray, numbers: range) -> np.ndarray | None:
        """The arrays of these samples, (n, *shape), copied together; None unless each has the dtype and shape of ``first``."""
        rows = slice(numbers.start, numbers.stop)
        firsts, head = self._firsts[rows], int(self._sizes[rows][0]) - first.nbytes
        if head < 0 or (self._sizes[rows] != head + first.nbytes).any():
            return None
        heads = self._gathered(firsts, head)
        array = self.array(column, numbers.start)
        if (heads != heads[0]).any() or (array.dtype, array.shape) != (first.dtype, first.shape):
            return None
        return self._gathered(firsts + head, first.nbytes).view(first.dtype).reshape(-1, *first.shape)

    def _of(self, number: int) -> memoryview:
        return self._content[self._firsts[number]:self._firsts[number] + self._sizes[number]]

    def _gathered(self, firsts: np.ndarray, size: int) -> np.ndarray:
        """The bytes (n, size) from each of ``firsts`` on, a copy."""
        if not size:
            return np.empty((len(firsts), 0), np.uint8)
        windows, steps = np.lib.stride_tricks.sliding_window_view(self._bytes, size), np.diff(firsts)
        if len(steps) and steps[0] > 0 and (steps == steps[0]).all():          # samples of equal size: takes half the time of a gather
            return windows[firsts[0]:firsts[-1] + 1:steps[0]].copy()
        return windows[firsts]

    def _stop(self, wrong: np.ndarray, why: str) -> None:
        if wrong.any():
            raise UserError(f"{self._shard.path}: damaged: sample {int(wrong.argmax())} {why}")


def content_of(shard: Shard) -> memoryview:
    """The shard's bytes, not compressed. Raises UserError if their number differs from the index."""
    how = (shard.compression or "").partition(":")[0]
    try:
        content = memoryview(_unpacked(shard, how, shard.path.read_bytes()) if how else _mapped(shard.path))
    except UserError:
        raise
    except ERRORS as error:
        raise UserError(f"{shard.path}: cannot be read: {first_line(error)}") from None
    if len(content) != shard.bytes:
        raise UserError(f"{shard.path}: is {len(content):,} bytes, but {INDEX} says {shard.bytes:,}; was it copied completely?")
    return content


def _mapped(path: Path) -> mmap.mmap | bytes:
    with open(path, "rb") as file:
        if not path.stat().st_size:                                            # nothing to map
            return b""
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_SEQUENTIAL"):
        mapped.madvise(mmap.MADV_SEQUENTIAL)
    return mapped


def _unpacked(shard: Shard, how: str, content: bytes) -> bytes:
    if how in ("gz", "bz2"):
        return {"gz": gzip, "bz2": bz2}[how].decompress(content)
    if how != "zstd":
        raise UserError(f"{shard.path}: is compressed by {how}; zstd, gz, bz2 and shards that are not compressed are read")
    try:
        import zstandard  # type: ignore[import-not-found]
    except ImportError:
        raise UserError(f"{shard.path}: is compressed by zstd; pip install zstandard reads it") from None
    try:
        return zstandard.ZstdDecompressor().decompress(content, max_output_size=shard.bytes)
    except zstandard.ZstdError as error:
        raise UserError(f"{shard.path}: damaged: {first_line(error)}") from None
