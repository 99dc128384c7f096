"""Many small files, in a folder or a zip, and .npy content: read with little overhead, and never unpickled."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from ditscale.data.latent_sources.base import BATCH_BYTES, one_kind, shown
from ditscale.data.sources.archive import DAMAGE, check_names
from ditscale.errors import UserError, first_line

LOCAL_HEADER, STORED, DEFLATED = 30, 0, 8                                      # of a zip: bytes; methods
MOST_BYTES = 1 << 30                                                           # of one small file
FLOATS = (2, 4, 8)                                                             # bytes of the floats that latents may be


class Files(Protocol):
    """Files by number, in the order of their names."""

    names: list[str]

    def only(self, names: list[str]) -> None:
        """Keep only these names."""

    def read(self, number: int) -> bytes: ...

    def where(self, number: int) -> str:
        """The file's name for a message."""


class FolderFiles:
    """Files of a folder and its subfolders; names with "/"."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names = sorted(_below(os.fspath(folder), ""))

    def only(self, names: list[str]) -> None:
        self.names = names

    def read(self, number: int) -> bytes:
        with open(f"{self.folder}/{self.names[number]}", "rb") as file:
            return file.read()

    def where(self, number: int) -> str:
        return f"{self.folder}/{self.names[number]}"


class ZipFiles:
    """Files of a zip. Python's own table of a million entries takes almost a GiB; this keeps an offset, a size and a checksum each."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = sorted((m for m in archive.infolist() if not m.is_dir()), key=lambda m: m.filename)
        except DAMAGE as error:
            raise UserError(f"{path}: not a complete zip archive: {error}") from None
        self.names = [m.filename for m in members]
        check_names(path, self.names)
        if locked := next((m.filename for m in members if m.flag_bits & 1), None):
            raise UserError(f"{path}: {locked} is locked with a password; pack it again without one")
        if packed := next((m for m in members if m.compress_type not in (STORED, DEFLATED)), None):
            raise UserError(f"{path}: {packed.filename} is compressed by method {packed.compress_type}; pack it again, stored")
        self._table = np.array([(m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type) for m in members],
                               np.dtype([("at", "<i8"), ("packed", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("method", "u1")]))

    def only(self, names: list[str]) -> None:
        place = {name: number for number, name in enumerate(self.names)}
        self._table, self.names = self._table[[place[name] for name in names]], names

    @cached_property
    def _file(self):
        return open(self.path, "rb")

    def read(self, number: int) -> bytes:
        at, packed, size, crc, method = self._table[number].item()
        if size > MOST_BYTES:
            raise UserError(f"{self.where(number)}: is {size:,} bytes, which no latent of one image is")
        self._file.seek(at)
        header = self._file.read(LOCAL_HEADER)
        if len(header) == LOCAL_HEADER and header[:4] == b"PK\x03\x04":
            self._file.seek(sum(struct.unpack("<HH", header[26:])), os.SEEK_CUR)      # after its name and extra field
            content = self._file.read(packed)
            if method == DEFLATED:
                content = _inflated(content, size)
            if len(content) == size and zlib.crc32(content) == crc:
                return content
        raise UserError(f"{self.where(number)}: damaged: the archive states another size or checksum; was it copied completely?")

    def where(self, number: int) -> str:
        return f"{self.path}: {self.names[number]}"


def _inflated(content: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj(-15).decompress(content, size)
    except zlib.error:
        return b""


def _below(folder: str, inside: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _below(entry.path, f"{inside}{entry.name}/")
            else:
                yield inside + entry.name


class NpyHeader:
    """dtype, shape and first byte of .npy content. Many files have the same header, which is parsed once."""

    def __init__(self):
        self._known: dict[bytes, tuple[np.dtype, tuple[int, ...], bool, int]] = {}

    def read(self, content: bytes, where: str) -> tuple[np.dtype, tuple[int, ...], bool, int]:
        """(dtype, shape, is in Fortran's order, first byte). Raises UserError if it is not an array of numbers."""
        head = content[:_header_bytes(content)]
        if head not in self._known:
            self._known[head] = _parsed(head, where)
        return self._known[head]

    def array(self, content: bytes, where: str) -> np.ndarray:
        """The array of a whole file; read-only."""
        dtype, shape, fortran, start = self.read(content, where)
        count = int(np.prod(shape, dtype=object))
        if len(content) != start + count * dtype.itemsize:
            raise UserError(f"{where}: ends after {len(content):,} bytes, its header says {start + count * dtype.itemsize:,}: it was "
                            "truncated")
        values = np.frombuffer(content, dtype, offset=start)
        return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


def _header_bytes(content: bytes) -> int:
    if content[6:7] == b"\x01":
        return 10 + int.from_bytes(content[8:10], "little")
    return 12 + int.from_bytes(content[8:12], "little")


def _parsed(head: bytes, where: str) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"{where}: not a complete .npy file: {first_line(error)}") from None
    if dtype.hasobject or dtype.kind not in "fiub":
        raise UserError(f"{where}: holds {'Python objects, which are not unpickled' if dtype.hasobject else dtype}; numbers are needed")
    return dtype, shape, fortran, file.tell()


def stacked(files: Files, start: int = 0) -> Iterator[np.ndarray]:
    """Yields the arrays of .npy files in batches (n, *shape), from file ``start`` on, floats in this machine's byte order.

    Raises:
        UserError: a file is damaged, holds no floats, or differs in dtype or shape from the first.
    """
    header = NpyHeader()
    first = float_array(header, files, 0)
    kind, native = (first.dtype, first.shape), first.dtype.newbyteorder("=")
    step = max(1, BATCH_BYTES // max(first.nbytes, 1))
    for begin in range(start, len(files.names), step):
        numbers = range(begin, min(begin + step, len(files.names)))
        batch = np.empty((len(numbers), *first.shape), native)
        for row, number in enumerate(numbers):
            array = header.array(files.read(number), files.where(number))
            if array.shape != first.shape or array.dtype != first.dtype:
                one_kind(files.where(0), kind, files.where(number), (array.dtype, array.shape))
            batch[row] = array
        yield batch


def is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" and dtype.itemsize in FLOATS


def float_array(header: NpyHeader, files: Files, number: int) -> np.ndarray:
    """One of them. Raises UserError if it holds no floats."""
    array = header.array(files.read(number), files.where(number))
    if not is_float(array.dtype) or not array.size:
        raise UserError(f"{files.where(number)}: holds {shown(array.dtype, array.shape)}; floats are needed")
    return array
