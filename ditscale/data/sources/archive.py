"""Image files in a .zip or .tar, read in place; only a compressed tar is unpacked, to one plain tar.

A tar of tars, one per class (ImageNet's ``ILSVRC2012_img_train.tar``), counts as class folders.
"""

import bz2
import gzip
import lzma
import mmap
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ditscale.data.sources.arrange import arrange
from ditscale.data.sources.base import Request, Source, stamp
from ditscale.errors import UserError

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, NotImplementedError)
BLOCK = 512                                                                     # bytes; a tar is made of them
HEADER = re.compile(rb"(?s)(.{100}).{24}([0-7]{11})[ \0].{20}([05]).{100}ustar.{83}\0")    # name, size, type; of a name without a prefix field
COMPRESSED: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open, b"BZ": bz2.open}    # by the first two bytes


class ZipReader:
    """Reads members of a zip by name; each process opens it once."""

    def __init__(self, path: Path):
        self._path = path
        self._zip: zipfile.ZipFile | None = None

    def __getstate__(self):
        return {"_path": self._path, "_zip": None}

    def read(self, place: str) -> bytes:
        self._zip = self._zip or zipfile.ZipFile(self._path)
        return self._zip.read(place)


class RangesReader:
    """Reads (first byte, number of bytes) of a file, or (number of the file, ...) of several; each process keeps the last one
    open."""

    def __init__(self, *paths: Path):
        self._paths = paths
        self._open: tuple[int, BinaryIO] | None = None

    def __getstate__(self):
        return {"_paths": self._paths, "_open": None}

    def read(self, place) -> bytes:
        number, first, size = place if len(place) == 3 else (0, *place)
        if self._open is None or self._open[0] != number:
            self._open = number, open(self._paths[number], "rb")
        self._open[1].seek(first)
        return self._open[1].read(size)


def open_zip(request: Request) -> Source:
    """See ``open_source``."""
    path = request.path
    try:
        with zipfile.ZipFile(path) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
    except DAMAGE as error:
        raise UserError(f"{path}: not a complete zip archive: {error}") from None
    if any(member.flag_bits & 1 for member in members):
        raise UserError(f"{path}: is locked with a password; pack it again without one")
    names = [member.filename for member in members]
    check_names(path, names)
    reader = ZipReader(path)
    layout = arrange(request, names, reader.read)
    return layout.source(f"zip archive {path.name}", layout.names, reader, stamp(path))


def open_tar(request: Request) -> Source:
    """See ``open_source``."""
    path = request.path
    try:
        plain = _plain_tar(path, request.scratch)
    except DAMAGE as error:
        raise UserError(f"{path}: not a complete tar archive: {error}") from None
    places, reader = dict(members_of(path, plain)), RangesReader(plain)
    layout = arrange(request, list(places), lambda name: reader.read(places[name]))
    return layout.source(f"tar archive {path.name}", [places[name] for name in layout.names], reader, stamp(path))


def members_of(path: Path, plain: Path) -> list[tuple[str, tuple[int, int]]]:
    """(name, (first byte, size)) of every file of the tar ``plain``, which is ``path`` or unpacked from it.

    Raises:
        UserError: it is damaged, or holds unsafe names.
    """
    try:
        found = _plain_members(plain)
        if found is None:
            with tarfile.open(plain, "r:") as tar:
                found = list(_members(path, tar))
    except DAMAGE as error:
        raise UserError(f"{path}: not a complete tar archive: {error}") from None
    check_names(path, [name for name, _ in found])
    return found


def _plain_tar(path: Path, scratch: Path) -> Path:
    """The archive, or an unpacked copy in ``scratch`` if it is compressed, for random access."""
    with open(path, "rb") as file:
        opener = COMPRESSED.get(file.read(2))
    plain = scratch / "unpacked.tar"
    if opener is None:
        return path
    try:
        with opener(path, "rb") as packed, open(plain, "wb") as target:
            shutil.copyfileobj(packed, target, 1 << 20)
    except OSError as error:
        if error.errno is not None:
            raise
        raise tarfile.ReadError(str(error)) from None                           # how gzip and bz2 report damage
    return plain


def _plain_members(plain: Path) -> list[tuple[str, tuple[int, int]]] | None:
    """The same as ``_members``, many times faster, for a tar of files and folders with short names; None for any other."""
    found: list[tuple[str, tuple[int, int]]] = []
    at, end = 0, plain.stat().st_size
    if end < 2 * BLOCK:
        return None
    with open(plain, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while at + BLOCK <= end:
            header = HEADER.match(content, at)
            if header is None:                                                  # two blocks of zeros end the archive
                return found if at + 2 * BLOCK <= end and not any(content[at:at + 2 * BLOCK]) else None
            name, size, kind = header.groups()
            name, size, at = name.rstrip(b"\0"), int(size, 8), at + BLOCK
            if name.endswith(b".tar") or not name.isascii() or b"\0" in name:
                return None
            if kind == b"0":
                found.append((name.decode().removeprefix("./"), (at, size)))
                at += -(-size // BLOCK) * BLOCK
    return None                                                                 # truncated: tarfile says how


def _members(path: Path, tar: tarfile.TarFile, above: str = "", first_byte: int = 0):
    """Yields (name, (first byte in the outermost file, size)) of every file, including those of tars in the tar."""
    for member in tar:
        if member.isdir():
            continue
        if not member.isreg():
            raise UserError(f"{path}: {member.name} is a link or a device; pack the files themselves (tar --dereference)")
        name, start = above + member.name.removeprefix("./"), first_byte + member.offset_data
        if member.name.endswith(".tar"):
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                yield from _members(path, inner, name.removesuffix(".tar") + "/", start)
        else:
            yield name, (start, member.size)
        tar.members = []  # type: ignore[attr-defined]                          # else it keeps a kilobyte a file


def check_names(path: Path, names: list[str]) -> None:
    """Raises UserError for names outside the archive's folder, and for duplicates."""
    seen = set()
    for name in names:
        if name.startswith(("/", "\\")) or ".." in name and ".." in name.replace("\\", "/").split("/"):
            raise UserError(f"{path}: holds the name '{name}', which points outside the archive; it is not safe")
        if name in seen:
            raise UserError(f"{path}: holds two files of the name {name}; it is ambiguous; pack it again")
        seen.add(name)
