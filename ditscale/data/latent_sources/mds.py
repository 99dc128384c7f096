"""MosaicML Streaming's shards (MDS) with an ndarray column, read by the format's own rule without that package.

::

    index.json     for each shard: its files, number of samples, and the columns' names, encodings and sizes
    shard.00000.mds
        uint32 samples, uint32 x (samples + 1) where each begins, a JSON object, then the samples:
        uint32 for each column whose size is not fixed, then each column's bytes

An ndarray column is called ``ndarray``, ``ndarray:float16`` or ``ndarray:float16:4,32,32``; what its name leaves out, dtype and shape,
stands before the values of each sample.
"""

import bz2
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
from ditscale.data.progress import Progress
from ditscale.data.sources.sidecar import LABEL_KEYS
from ditscale.errors import UserError, first_line

INDEX, VERSION = "index.json", 2
DTYPES = {8: "u1", 9: "i1", 16: "<u2", 17: "<i2", 18: "<f2", 32: "<u4", 33: "<i4", 34: "<f4", 64: "<u8", 65: "<i8", 66: "<f8"}
NAMES = {"uint8": "u1", "int8": "i1", "uint16": "<u2", "int16": "<i2", "float16": "<f2", "uint32": "<u4", "int32": "<i4", "float32": "<f4",
         "uint64": "<u8", "int64": "<i8", "float64": "<f8"}
SHAPES = ("<u1", "<u2", "<u4", "<u8")                                          # dtypes of a shape, by the lower two bits before it
NDARRAY = re.compile(r"ndarray(?::(\w+)(?::([1-9]\d*(?:,[1-9]\d*)*))?)?")
INTS = {"int": "<i8"} | {name: code for name, code in NAMES.items() if "int" in name}
ERRORS = (zlib.error, EOFError, OSError, lzma.LZMAError, ValueError)


@dataclass(frozen=True)
class Shard:
    path: Path                                                                 # the file that is there
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
    dtype: np.dtype | None                                                     # None: it stands in each sample
    shape: tuple[int, ...] | None

    def read(self, content: memoryview, where: str) -> np.ndarray:
        """The array of one sample. Raises UserError where the bytes are no such array."""
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


def could_be(path: Path) -> bool:
    return path.is_dir() and (path / INDEX).is_file()


def open_mds(request: LatentRequest) -> LatentSource:
    facts = stated_facts(request, "none")
    shards = _shards(request.path)
    column, label = _columns(request, shards[0])
    ends = np.cumsum([shard.samples for shard in shards])
    first = next(_arrays(shards[0], column))
    if first.dtype.kind != "f" or first.ndim != 3:
        raise UserError(f"{shards[0].path}: column '{column.name}' holds {shown(first.dtype, first.shape)}; floats of channels x height x "
                        "width are needed")
    channels = latent_channels(shards[0].path, facts.holds, first.shape[0])

    def name_of(index: int) -> str:
        number = int(np.searchsorted(ends, index, side="right"))
        return f"{shards[number].path}: sample {index - (ends[number] - shards[number].samples)}"

    def batches() -> Iterator[torch.Tensor]:
        step = max(1, BATCH_BYTES // first.nbytes)
        rows: list[np.ndarray] = []
        done = 0
        for shard in shards:
            for array in _arrays(shard, column):
                if (array.dtype, array.shape) != (first.dtype, first.shape):
                    one_kind(name_of(0), (first.dtype, first.shape), name_of(done + len(rows)), (array.dtype, array.shape))
                rows.append(array)
                if len(rows) == step:
                    yield in_moments(torch.from_numpy(np.stack(rows)), request.holds)
                    rows, done = [], done + step
        if rows:
            yield in_moments(torch.from_numpy(np.stack(rows)), request.holds)

    values: np.ndarray | list | None = label_array(request.labels) if request.labels else None
    if values is None and label and not request.unlabeled:
        values = _labels(shards, label, int(ends[-1]))
    labels, names = class_labels(request, request.labels or request.path, values, int(ends[-1]))
    return LatentSource(f"mds folder {request.path.resolve().name}", facts, (channels, *first.shape[1:]), labels, names, name_of, batches)


def _shards(folder: Path) -> list[Shard]:
    """The shards that the index names, in its order. Raises UserError where it is damaged or a file of it is not there."""
    where = folder / INDEX
    try:
        index = json.loads(where.read_bytes())
        if index["version"] != VERSION or not index["shards"]:
            raise UserError(f"{where}: of version {index['version']} with {len(index['shards'])} shards; version {VERSION} is read")
        shards = [_shard(folder, entry) for entry in index["shards"]]
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise UserError(f"{where}: not an index of MDS shards: {type(error).__name__} {first_line(error)}") from None
    for shard in shards:
        if (shard.names, shard.encodings, shard.sizes) != (shards[0].names, shards[0].encodings, shards[0].sizes):
            raise UserError(f"{where}: {shard.path.name} has columns {dict(zip(shard.names, shard.encodings))}, but {shards[0].path.name} "
                            f"{dict(zip(shards[0].names, shards[0].encodings))}; shards of one kind are needed")
    return shards


def _shard(folder: Path, entry: dict) -> Shard:
    if entry["format"] != "mds":
        raise UserError(f"{folder / INDEX}: shards of format {entry['format']}; mds is read")
    names, encodings, sizes = entry["column_names"], entry["column_encodings"], entry["column_sizes"]
    raw, packed, samples = entry["raw_data"], entry["zip_data"], entry["samples"]
    if not (len(names) == len(encodings) == len(sizes) and type(samples) is int and samples > 0 and type(raw["bytes"]) is int
            and all(size is None or type(size) is int and size > 0 for size in sizes)):
        raise ValueError("columns or samples do not fit together")
    paths = [(folder / _safe(folder, data["basename"]), how) for data, how in ((raw, None), (packed, entry["compression"])) if data]
    path, compression = next(((path, how) for path, how in paths if path.is_file()), (None, None))
    if path is None:
        raise UserError(f"{paths[-1][0]}: no such file, but {INDEX} names it; was the data set copied whole?")
    return Shard(path, compression, raw["bytes"], samples, names, encodings, sizes)


def _safe(folder: Path, name: str) -> str:
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise UserError(f"{folder / INDEX}: names the file '{name}', which points out of the folder; it is not to be trusted")
    return name


def _columns(request: LatentRequest, shard: Shard) -> tuple[Column, str | None]:
    """The column of latents, and that of labels where there is one."""
    table = dict(zip(shard.names, shard.encodings))
    arrays = [name for name, encoding in table.items() if NDARRAY.fullmatch(encoding)]
    name = request.key or (arrays[0] if len(arrays) == 1 else None)
    if name not in arrays:
        shown_columns = ", ".join(f"{name} ({encoding})" for name, encoding in table.items())
        raise UserError(f"{request.path / INDEX}: which ndarray column holds the latents is not clear; name it with --key: {shown_columns}")
    column = _ndarray(request.path, name, table[name])
    labels = [key for key in (*LABEL_KEYS, "labels", "y") if key in table]
    if len(labels) > 1:
        raise UserError(f"{request.path / INDEX}: several columns may be the labels: {', '.join(labels)}; give --labels FILE.npy")
    return column, labels[0] if labels else None


def _ndarray(folder: Path, name: str, encoding: str) -> Column:
    dtype, shape = NDARRAY.fullmatch(encoding).groups()
    if dtype is not None and dtype not in NAMES:
        raise UserError(f"{folder / INDEX}: column '{name}' is {encoding}, which is no dtype of MDS")
    return Column(name, np.dtype(NAMES[dtype]) if dtype else None, tuple(map(int, shape.split(","))) if shape else None)


def _content(shard: Shard) -> memoryview:
    """The shard's bytes, not compressed. Raises UserError where they are not as many as the index says."""
    how = (shard.compression or "").partition(":")[0]
    try:
        content = shard.path.read_bytes()
        if how:
            content = _unpacked(shard, how, content)
    except UserError:
        raise
    except ERRORS as error:
        raise UserError(f"{shard.path}: cannot be read: {first_line(error)}") from None
    if len(content) != shard.bytes:
        raise UserError(f"{shard.path}: is {len(content):,} bytes, but {INDEX} says {shard.bytes:,}; was it copied whole?")
    return memoryview(content)


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


def _values(shard: Shard, name: str) -> Iterator[memoryview]:
    """A column's bytes of each sample."""
    content, at = _content(shard), shard.names.index(name)
    starts = np.frombuffer(content, "<u4", min(shard.samples + 2, len(content) // 4)).tolist()
    if len(starts) != shard.samples + 2 or starts[0] != shard.samples or starts[-1] != len(content) or sorted(starts[1:]) != starts[1:]:
        raise UserError(f"{shard.path}: damaged: its head does not say {shard.samples:,} samples in {len(content):,} bytes")
    free = [size is None for size in shard.sizes]
    for number, (start, end) in enumerate(zip(starts[1:], starts[2:])):
        body = start + 4 * sum(free)
        if body > end:
            raise UserError(f"{shard.path}: damaged: sample {number} ends before its first column")
        said = iter(np.frombuffer(content, "<u4", sum(free), start).tolist())
        sizes = [next(said) if size is None else size for size in shard.sizes]
        if body + sum(sizes) != end:
            raise UserError(f"{shard.path}: damaged: the columns of sample {number} do not fill it")
        first = body + sum(sizes[:at])
        yield content[first:first + sizes[at]]


def _arrays(shard: Shard, column: Column) -> Iterator[np.ndarray]:
    for number, content in enumerate(_values(shard, column.name)):
        yield column.read(content, f"{shard.path}: sample {number}")


def _labels(shards: list[Shard], name: str, count: int) -> list:
    """A label a sample: numbers, or text."""
    encoding = shards[0].encodings[shards[0].names.index(name)]
    array = _ndarray(shards[0].path.parent, name, encoding) if NDARRAY.fullmatch(encoding) else None
    if encoding not in INTS and encoding not in ("str", "str_int") and not array:
        raise UserError(f"{shards[0].path}: column '{name}' is {encoding}; labels are integers or str (nothing is unpickled); give "
                        "--labels FILE.npy")
    found: list = []
    with Progress("labels", count) as progress:
        for shard in shards:
            for number, content in enumerate(_values(shard, name)):
                if array:
                    value = array.read(content, f"{shard.path}: sample {number}")
                    if value.size != 1 or value.dtype.kind not in "iu":
                        raise UserError(f"{shard.path}: sample {number}: column '{name}' holds {shown(value.dtype, value.shape)}; one whole "
                                        "number is needed")
                    found.append(value.item())
                elif encoding in INTS:
                    found.append(np.frombuffer(content, INTS[encoding])[0].item())
                else:
                    found.append(bytes(content).decode("utf-8", "replace"))
            progress.advance(shard.samples)
    return found
