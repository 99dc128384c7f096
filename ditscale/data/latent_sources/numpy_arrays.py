"""NumPy arrays (N, C, H, W): an .npy, an .npz with labels, or a folder of .npy shards. The options state what the numbers are."""

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ditscale.data.latent_sources.base import (
    BATCH_BYTES,
    LatentRequest,
    LatentSource,
    class_labels,
    in_moments,
    label_array,
    latent_channels,
    one_kind,
    shown,
    stated_facts,
)
from ditscale.data.latent_sources.files import NpyHeader, is_float
from ditscale.data.sources.archive import DAMAGE
from ditscale.errors import UserError

LATENTS, LABELS = ("latents", "arr_0"), ("labels", "arr_1")                    # arr_0: numpy's own
LABELS_FILE, HEAD = "labels.npy", 1 << 12                                      # bytes, enough for an .npy's header


class Part(NamedTuple):
    """An array in a file."""

    path: Path
    member: str | None                                                         # of an .npz
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int                                                                 # its first byte

    @property
    def where(self) -> str:
        return f"{self.path}: {self.member}" if self.member else str(self.path)


def could_be(path: Path) -> bool:
    return path.suffix in (".npy", ".npz") if path.is_file() else any(path.glob("*.npy"))


def open_arrays(request: LatentRequest) -> LatentSource:
    path = request.path
    facts = stated_facts(request, "none")
    members = _members(request) if path.suffix == ".npz" else (None, None)
    paths = sorted(entry for entry in path.glob("*.npy") if entry.name != LABELS_FILE) if path.is_dir() else [path]
    parts = [_part(one, members[0]) for one in paths]
    if not parts:
        raise UserError(f"{path}: no .npy in it but {LABELS_FILE}")
    for part in parts:
        if not is_float(part.dtype) or len(part.shape) != 4 or not all(part.shape):
            raise UserError(f"{part.where}: holds {shown(part.dtype, part.shape)}; floats of N x channels x height x width are needed")
        one_kind(parts[0].where, (parts[0].dtype, parts[0].shape[1:]), part.where, (part.dtype, part.shape[1:]))
    ends = np.cumsum([part.shape[0] for part in parts])
    channels = latent_channels(parts[0].where, facts.holds, parts[0].shape[1])

    def name_of(index: int) -> str:
        number = int(np.searchsorted(ends, index, side="right"))
        return f"{parts[number].where}: row {index - (ends[number] - parts[number].shape[0])}"

    def batches(start: int) -> Iterator[torch.Tensor]:
        for part, end in zip(parts, ends.tolist()):
            for rows in _rows(part, max(0, part.shape[0] - (end - start))):
                yield in_moments(torch.from_numpy(rows), request.holds)

    beside = path / LABELS_FILE
    if members[1] and not request.labels:
        values = np.concatenate(list(_rows(_part(path, members[1]))))
    else:
        found = request.labels or (beside if beside.exists() else None)
        values = label_array(found) if found else None
    labels, names = class_labels(request, request.labels or path, values, int(ends[-1]))
    return LatentSource(f"numpy {'folder' if path.is_dir() else 'file'} {path.resolve().name}", facts, (channels, parts[0].shape[2], parts[0].shape[3]),
                        labels, names, name_of, batches)


def _members(request: LatentRequest) -> tuple[str, str | None]:
    """The names of the arrays of latents and of labels in an .npz."""
    try:
        with zipfile.ZipFile(request.path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    except DAMAGE as error:
        raise UserError(f"{request.path}: not a complete .npz file: {error}") from None
    latents = request.key if request.key in names else next((name for name in LATENTS if name in names), None)
    if latents is None or request.key not in (None, latents):
        raise UserError(f"{request.path}: has no array '{request.key or LATENTS[0]}'; name one with --key: {', '.join(sorted(names))}")
    return latents, next((name for name in LABELS if name in names), None)


def _part(path: Path, member: str | None) -> Part:
    with ExitStack() as stack:
        file = _opened(stack, path, member)
        where = f"{path}: {member}" if member else str(path)
        dtype, shape, fortran, start = NpyHeader().read(file.read(HEAD), where)
    if fortran and len(shape) > 1:
        raise UserError(f"{where}: is stored column by column (Fortran's order); save it again with numpy.ascontiguousarray")
    return Part(path, member, dtype, shape, start)


def _opened(stack: ExitStack, path: Path, member: str | None):
    if member is None:
        return stack.enter_context(open(path, "rb"))
    archive = stack.enter_context(zipfile.ZipFile(path))
    return stack.enter_context(archive.open(f"{member}.npy"))


def _rows(part: Part, start: int = 0) -> Iterator[np.ndarray]:
    """Its rows from ``start`` on, in batches, in this machine's byte order."""
    row_bytes = part.dtype.itemsize * int(np.prod(part.shape[1:], dtype=object))
    step = max(1, BATCH_BYTES // row_bytes)
    if start >= part.shape[0]:
        return
    with ExitStack() as stack:
        file = _opened(stack, part.path, part.member)
        file.seek(part.start + start * row_bytes)
        for first in range(start, part.shape[0], step):
            rows = np.empty((min(step, part.shape[0] - first), *part.shape[1:]), part.dtype)
            found = _read_into(file, rows, part.where)
            if found != rows.nbytes:
                raise UserError(f"{part.where}: ends in row {first + found // row_bytes:,} of {part.shape[0]:,}: it was truncated")
            yield rows.astype(part.dtype.newbyteorder("="), copy=False)
        if file.read(1):
            raise UserError(f"{part.where}: has more bytes than its header says")


def _read_into(file, rows: np.ndarray, where: str) -> int:
    """Fills an array with the next bytes; returns their number."""
    left = rows.reshape(-1).view(np.uint8).data
    try:
        while left and (count := file.readinto(left)):
            left = left[count:]
    except DAMAGE as error:
        raise UserError(f"{where}: damaged: {error}") from None
    return rows.nbytes - len(left)
