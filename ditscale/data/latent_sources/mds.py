"""MosaicML Streaming's shards (MDS) with an ndarray column, read according to the format, without that package.

::

    index.json     for each shard: its files, number of samples, and the columns' names, encodings and sizes
    shard.00000.mds
        uint32 samples, uint32 x (samples + 1) with the start of each, a JSON object, then the samples:
        uint32 for each column whose size is not fixed, then each column's bytes

An ndarray column is called ``ndarray``, ``ndarray:float16`` or ``ndarray:float16:4,32,32``; dtype and shape that the name leaves out
precede the values of each sample.
"""

import json
import re
from collections.abc import Iterator
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
from ditscale.data.latent_sources.mds_shard import INDEX, Column, Shard, Values
from ditscale.data.progress import Progress
from ditscale.data.sources.sidecar import LABEL_KEYS
from ditscale.errors import UserError, first_line

VERSION = 2
NAMES = {"uint8": "u1", "int8": "i1", "uint16": "<u2", "int16": "<i2", "float16": "<f2", "uint32": "<u4", "int32": "<i4", "float32": "<f4",
         "uint64": "<u8", "int64": "<i8", "float64": "<f8"}
NDARRAY = re.compile(r"ndarray(?::(\w+)(?::([1-9]\d*(?:,[1-9]\d*)*))?)?")
INTS = {"int": "<i8"} | {name: code for name, code in NAMES.items() if "int" in name}


def could_be(path: Path) -> bool:
    return path.is_dir() and (path / INDEX).is_file()


def open_mds(request: LatentRequest) -> LatentSource:
    facts = stated_facts(request, "none")
    shards = _shards(request.path)
    column, label = _columns(request, shards[0])
    ends = np.cumsum([shard.samples for shard in shards])
    first = Values(shards[0], column.name).array(column, 0)
    if first.dtype.kind != "f" or first.ndim != 3:
        raise UserError(f"{shards[0].path}: column '{column.name}' holds {shown(first.dtype, first.shape)}; floats of channels x height x "
                        "width are needed")
    channels = latent_channels(shards[0].path, facts.holds, first.shape[0])

    def name_of(index: int) -> str:
        number = int(np.searchsorted(ends, index, side="right"))
        return f"{shards[number].path}: sample {index - (ends[number] - shards[number].samples)}"

    def batches(start: int) -> Iterator[torch.Tensor]:
        step = max(1, BATCH_BYTES // first.nbytes)
        for shard, end in zip(shards, ends.tolist()):
            begin = max(0, shard.samples - (end - start))
            if begin >= shard.samples:
                continue
            values = Values(shard, column.name)
            for low in range(begin, shard.samples, step):
                numbers = range(low, min(low + step, shard.samples))
                rows = values.alike(column, first, numbers)
                if rows is None:                                               # one of them has another dtype or shape, or is damaged
                    rows = np.stack([_one_like(first, name_of, end - shard.samples + number, values.array(column, number)) for number in numbers])
                yield in_moments(torch.from_numpy(rows), request.holds)

    values: np.ndarray | list | None = label_array(request.labels) if request.labels else None
    if values is None and label and not request.unlabeled:
        values = _labels(shards, label, int(ends[-1]))
    labels, names = class_labels(request, request.labels or request.path, values, int(ends[-1]))
    return LatentSource(f"mds folder {request.path.resolve().name}", facts, (channels, *first.shape[1:]), labels, names, name_of, batches)


def _shards(folder: Path) -> list[Shard]:
    """The shards that the index names, in its order. Raises UserError if it is damaged or a file is missing."""
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
    """The column of latents, and that of labels, if any."""
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


def _one_like(first: np.ndarray, name_of, number: int, array: np.ndarray) -> np.ndarray:
    if (array.dtype, array.shape) != (first.dtype, first.shape):
        one_kind(name_of(0), (first.dtype, first.shape), name_of(number), (array.dtype, array.shape))
    return array


def _labels(shards: list[Shard], name: str, count: int) -> list:
    """One label per sample: numbers, or text."""
    encoding = shards[0].encodings[shards[0].names.index(name)]
    array = _ndarray(shards[0].path.parent, name, encoding) if NDARRAY.fullmatch(encoding) else None
    if encoding not in INTS and encoding not in ("str", "str_int") and not array:
        raise UserError(f"{shards[0].path}: column '{name}' is {encoding}; labels are integers or str (nothing is unpickled); give "
                        "--labels FILE.npy")
    found: list = []
    with Progress("labels", count) as progress:
        for shard in shards:
            found += _labels_of(shard, name, encoding, array)
            progress.advance(shard.samples)
    return found


def _labels_of(shard: Shard, name: str, encoding: str, array: Column | None) -> list:
    values = Values(shard, name)
    if encoding in INTS:
        numbers = values.numbers(INTS[encoding])
        if numbers is None:
            raise UserError(f"{shard.path}: damaged: column '{name}' is {encoding}, but has another size in a sample")
        return numbers.tolist()
    if array is None:
        return [bytes(content).decode("utf-8", "replace") for content in values]
    found = []
    for number in range(shard.samples):
        value = values.array(array, number)
        if value.size != 1 or value.dtype.kind not in "iu":
            raise UserError(f"{shard.path}: sample {number}: column '{name}' holds {shown(value.dtype, value.shape)}; one integer is needed")
        found.append(value.item())
    return found
