"""Reads and writes FFCV's .beton files (format version 2) with numpy only.

::

    header       version, number of fields, page size, number of samples, address of the allocation table
    fields       for each: type, name, 1024 bytes of arguments (an array's shape and dtype)
    table        for each sample: an integer field's value; the address of an array field's bytes
    pages        the arrays' bytes, from the first multiple of the page size; no sample crosses a page
    allocations  for each sample and array field: sample, address, size. The file ends with it

The layout is FFCV's own (``ffcv/types.py``, ``writer.py``, ``memory_allocator.py``, ``fields/``); every number is
little-endian.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ditscale.errors import UserError, did_you_mean
from ditscale.writing import written_whole

VERSION = 2
PAGE_SIZE = 1 << 21                                                            # bytes; the smallest that FFCV writes
MAX_RECORD = 1 << 31                                                           # bytes; the page size is a 32-bit number
INT, NDARRAY = 1, 4                                                            # FFCV's numbers for the two field types

HEADER = np.dtype([("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"),
                   ("allocations_at", "<u8")])
FIELD = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "u1", 1024)])
ARRAY_ARGUMENTS = np.dtype([("shape", "<u8", 32), ("type_length", "<u8")])    # then the dtype's description in JSON
ALLOCATION = np.dtype([("sample_id", "<u8"), ("address", "<u8"), ("size", "<u8")])


@dataclass(frozen=True)
class FieldSpec:
    """What a field holds for each sample: an int64 (shape ``()``) or an array of fixed shape."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def is_int(self) -> bool:
        return not self.shape

    @property
    def page_bytes(self) -> int:
        """Bytes a sample takes in the pages; integers live in the table."""
        return 0 if self.is_int else self.dtype.itemsize * math.prod(self.shape)


class BetonFile:
    """A .beton file, opened through one read-only memory map.

    Attributes:
        num_samples: samples in the file.
        fields: ``{name: FieldSpec}``.

    Raises:
        UserError: the file is missing, is not a .beton file, was truncated or is damaged, or holds a field type other
            than fixed-shape arrays and integers. All of this is checked when the file is opened, not during training.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._bytes = _map(self.path)
        header = self._at(0, HEADER, 1)[0]
        if header["version"] != VERSION or not header["num_fields"]:
            raise UserError(f"{path}: not a .beton file of FFCV's format version {VERSION}; build it again")
        self.num_samples = int(header["num_samples"])
        fields_end = HEADER.itemsize + int(header["num_fields"]) * FIELD.itemsize
        descriptors = self._at(HEADER.itemsize, FIELD, header["num_fields"])
        self.fields = dict(_read_field(self.path, descriptor) for descriptor in descriptors)
        if int(header["page_size"]).bit_count() != 1:
            raise self._damaged(f"its pages are {header['page_size']} bytes, not a power of two")
        if len(self.fields) != header["num_fields"] or not self.num_samples:
            raise self._damaged("it has no samples or two fields of one name")
        table = np.dtype([(name, "<i8") for name in self.fields])
        if not header["allocations_at"]:
            raise UserError(f"{path}: its writer was stopped before the end; build it again")
        columns = self._at(fields_end, table, self.num_samples)
        self._columns = {name: columns[name].copy() for name in self.fields}
        self._check_pages(int(header["allocations_at"]), pages_from=fields_end + columns.nbytes)

    def read(self, name: str, indices, parts=None) -> np.ndarray:
        """A field of the samples at ``indices``, bit for bit and in that order, as a new array.

        With ``parts`` only entry ``parts[i]`` of an array's first axis is read of sample ``indices[i]``.
        Shapes: indices (...), parts (...), returns (..., *field shape), with parts (..., *field shape[1:]).

        Raises:
            UserError: the file has no such field.
            IndexError: an index is past the end.
        """
        if name not in self.fields:
            raise UserError(f"{self.path}: no field '{name}'{did_you_mean(name, self.fields) or '.'} "
                            f"Fields: {', '.join(self.fields)}")
        spec, values = self.fields[name], self._columns[name][np.asarray(indices, dtype=np.int64)]
        if spec.is_int:
            return values
        # Row a of the view is the record that starts at byte a: one gather copies all records, wherever they lie.
        if parts is not None:
            spec = FieldSpec(spec.dtype, spec.shape[1:])
            values = values + spec.page_bytes * np.asarray(parts)
        records = np.lib.stride_tricks.sliding_window_view(self._bytes, spec.page_bytes)[values]
        return records.view(spec.dtype).reshape(*values.shape, *spec.shape)

    def _at(self, start: int, dtype: np.dtype, count) -> np.ndarray:
        """``count`` entries of ``dtype`` from byte ``start``; they must lie inside the file."""
        end = start + int(count) * dtype.itemsize
        if end > len(self._bytes):
            raise UserError(f"{self.path}: file ends after {len(self._bytes)} bytes but its table needs {end}: "
                            "it was truncated; build it again")
        return self._bytes[start:end].view(dtype)

    def _check_pages(self, allocations_at: int, pages_from: int) -> None:
        """Every record lies inside the pages; the allocation table, where FFCV looks sizes up, is complete and agrees."""
        arrays = {name: spec for name, spec in self.fields.items() if not spec.is_int}
        allocations = self._at(allocations_at, ALLOCATION, self.num_samples * len(arrays))
        surplus = len(self._bytes) - allocations_at - allocations.nbytes
        if surplus:
            raise self._damaged(f"{surplus} bytes follow its last table")
        allocations = allocations[np.argsort(allocations["address"], kind="stable")]
        addresses = allocations["address"].astype(np.int64)
        for name, spec in arrays.items():
            start = self._columns[name]
            if start.min() < pages_from or start.max() > allocations_at - spec.page_bytes:
                raise self._damaged(f"a sample of field '{name}' lies outside its pages")
            entry = np.minimum(np.searchsorted(addresses, start), len(addresses) - 1)
            found = allocations[entry]
            if (addresses[entry] != start).any() or (found["size"] != spec.page_bytes).any() \
                    or (found["sample_id"] != np.arange(self.num_samples)).any():
                raise self._damaged(f"its tables disagree about field '{name}'")

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: damaged: {what}; build it again")


def write_beton(path, fields: dict[str, np.ndarray], page_size: int = PAGE_SIZE) -> None:
    """Write arrays whose first axis runs over the samples; FFCV reads the file back, and writes the same bytes itself.

    One-dimensional int64 arrays become integer fields, others array fields. ``page_size`` is a power of two and grows
    if a sample would not fit. The file is written completely or not at all.

    Raises:
        UserError: a field cannot be stored, or the file cannot be written.
    """
    specs = field_specs(path, fields)
    integers = {name: fields[name] for name, spec in specs.items() if spec.is_int}
    num_samples = len(next(iter(fields.values())))
    batches = ({name: fields[name][first:first + 1024] for name in fields} for first in range(0, num_samples, 1024))
    stream_beton(path, specs, num_samples, integers, batches, page_size)


def stream_beton(path, specs: dict[str, FieldSpec], num_samples: int, integers: dict[str, np.ndarray], batches,
                 page_size: int = PAGE_SIZE) -> None:
    """As ``write_beton``, the same bytes, for arrays that do not fit into memory together.

    Args:
        specs: the fields in their order.
        integers: the integer fields, whole.
        batches: yields ``{name: array}`` of the array fields, any number of samples each, ``num_samples`` together.
    """
    with written_whole(path) as aside, open(aside, "wb") as file:
        write_stream(file, specs, num_samples, integers, batches, page_size)


def write_stream(file, specs: dict[str, FieldSpec], num_samples: int, integers: dict[str, np.ndarray], batches,
                 page_size: int = PAGE_SIZE) -> None:
    """Like ``stream_beton``, into an open file. Records are written page by page as their batches arrive."""
    at = _layout(specs, num_samples, page_size)
    table = np.zeros(num_samples, dtype=[(name, "<i8") for name in specs])
    sample = np.arange(num_samples)
    address = at.pages_at + sample // at.a_page * at.page_size + sample % at.a_page * at.record
    allocations = np.zeros((num_samples, sum(not spec.is_int for spec in specs.values())), ALLOCATION)
    for name, spec in specs.items():
        table[name] = integers[name] if spec.is_int else address
        address = address + spec.page_bytes
    for column, (name, spec) in enumerate((name, spec) for name, spec in specs.items() if not spec.is_int):
        allocations["sample_id"][:, column], allocations["address"][:, column] = sample, table[name]
        allocations["size"][:, column] = spec.page_bytes

    end = at.pages_at + at.pages * at.page_size
    header = np.array((VERSION, len(specs), at.page_size, num_samples, end), HEADER)
    file.write(header.tobytes() + b"".join(_write_field(*item) for item in specs.items()) + table.tobytes())
    file.seek(at.pages_at)
    if at.record:
        _write_pages(file, specs, batches, at.record, at.page_size)
    if file.tell() != end:
        raise ValueError(f"batches do not hold the {num_samples} samples that were announced")
    file.write(allocations.tobytes())


class _Layout(NamedTuple):
    """Offsets and sizes in a file, in bytes."""

    page_size: int
    record: int                                                                # of a sample
    a_page: int                                                                # samples
    pages_at: int                                                              # the first page
    pages: int


def _layout(specs: dict[str, FieldSpec], num_samples: int, page_size: int) -> _Layout:
    page_size = fitting_page_size(specs, page_size)
    record = sum(spec.page_bytes for spec in specs.values())
    tables_end = HEADER.itemsize + len(specs) * FIELD.itemsize + 8 * len(specs) * num_samples
    a_page = page_size // record if record else num_samples
    return _Layout(page_size, record, a_page, -(-tables_end // page_size) * page_size if record else tables_end,
                   -(-num_samples // a_page) if record else 0)


def begun_records(path: Path, specs: dict[str, FieldSpec], num_samples: int, first: int, last: int) -> Iterator[bytes]:
    """Yields the records of samples ``first`` to ``last`` of a file that ``write_stream`` has not finished, page by page; fewer if it
    ends before."""
    at = _layout(specs, num_samples, PAGE_SIZE)
    with open(path, "rb") as file:
        while first < last:
            count = min(at.a_page - first % at.a_page, last - first)
            file.seek(at.pages_at + first // at.a_page * at.page_size + first % at.a_page * at.record)
            content = file.read(count * at.record)
            if len(content) < count * at.record:
                return
            yield content
            first += count


def field_specs(path, fields: dict[str, np.ndarray]) -> dict[str, FieldSpec]:
    """What a file of these arrays would hold. Raises UserError if FFCV could not store an array or load it back."""
    lengths = {name: len(values) for name, values in fields.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise UserError(f"{path}: fields need one and the same number of samples, at least 1; they have {lengths}")
    specs = {}
    for name, values in fields.items():
        if not name.isascii() or not 1 <= len(name) <= 16:
            raise UserError(f"{path}: field name '{name}' is not 1 to 16 ASCII characters")
        if values.dtype.newbyteorder("<").str not in ("|u1", "|i1", "<i2", "<i4", "<i8", "<f4", "<f8"):
            raise UserError(f"{path}: field '{name}' is {values.dtype}, which FFCV cannot load; "
                            "store 16-bit floats as .view(numpy.int16)")
        if 0 in values.shape or (values.ndim == 1 and values.dtype != np.int64):
            raise UserError(f"{path}: field '{name}' is {values.dtype} of shape {values.shape}; "
                            "store one number per sample as int64, or with shape (N, 1)")
        specs[name] = FieldSpec(values.dtype.newbyteorder("<"), values.shape[1:])
    if sum(spec.page_bytes for spec in specs.values()) > MAX_RECORD:
        raise UserError(f"{path}: a sample takes more than {MAX_RECORD} bytes, the largest that a page can hold")
    return specs


def fitting_page_size(specs: dict[str, FieldSpec], page_size: int = PAGE_SIZE) -> int:
    """``page_size``, or the smallest power of two above it that holds a whole sample."""
    record = sum(spec.page_bytes for spec in specs.values())
    return max(page_size, 1 << max(record - 1, 0).bit_length())


def _map(path: Path) -> np.ndarray:
    """The file's bytes, read-only; they are read from disk when touched."""
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder, not a .beton file")
        size = os.stat(path).st_size
        if size < HEADER.itemsize:
            raise UserError(f"{path}: file ends after {size} bytes, before the end of its header; build it again")
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; build it first") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _read_field(path: Path, field: np.void) -> tuple[str, FieldSpec]:
    """Name and content of a field descriptor."""
    name = field["name"].decode("ascii", "replace")
    if field["type_id"] == INT:
        return name, FieldSpec(np.dtype("<i8"), ())
    if field["type_id"] != NDARRAY:
        raise UserError(f"{path}: field '{name}' has FFCV's type {field['type_id']}; only arrays of fixed shape "
                        f"({NDARRAY}) and integers ({INT}) can be read")
    arguments = field["arguments"].tobytes()
    numbers = np.frombuffer(arguments, ARRAY_ARGUMENTS, count=1)[0]
    description = arguments[ARRAY_ARGUMENTS.itemsize:][:int(numbers["type_length"])]
    try:
        ((_, code),) = json.loads(description)
        spec = FieldSpec(np.dtype(code), tuple(np.trim_zeros(numbers["shape"], "b").tolist()))
    except (ValueError, TypeError):
        spec = None
    if spec is None or spec.is_int or spec.dtype.kind not in "biuf" or not 0 < spec.page_bytes < 2**32:
        raise UserError(f"{path}: damaged: field '{name}' does not describe an array; build it again")
    return name, spec


def _write_field(name: str, spec: FieldSpec) -> bytes:
    """A field descriptor."""
    field = np.zeros((), FIELD)
    field["type_id"], field["name"] = (INT if spec.is_int else NDARRAY), name.encode()
    if not spec.is_int:
        code = json.dumps(spec.dtype.descr).encode()
        numbers = np.zeros((), ARRAY_ARGUMENTS)
        numbers["shape"][:len(spec.shape)], numbers["type_length"] = spec.shape, len(code)
        arguments = numbers.tobytes() + code
        field["arguments"][:len(arguments)] = np.frombuffer(arguments, np.uint8)
    return field.tobytes()


def _write_pages(file, specs: dict[str, FieldSpec], batches, record: int, page_size: int) -> None:
    """Pages of whole samples, each sample's arrays side by side, zeros after a page's last."""
    padding = bytes(page_size % record)
    left = a_page = page_size // record                                        # samples that fit into the rest of the current page
    for batch in batches:
        rows = _records(batch, specs)
        while len(rows):
            part, rows = rows[:left], rows[left:]
            file.write(part.data)
            left -= len(part)
            if not left:
                file.write(padding)
                left = a_page
    if left < a_page:
        file.write(bytes(left * record) + padding)


def _records(batch: dict[str, np.ndarray], specs: dict[str, FieldSpec]) -> np.ndarray:
    """The batch's array fields as bytes, shape (samples, record); a single field is not copied."""
    columns = [np.ascontiguousarray(batch[name], dtype=spec.dtype) for name, spec in specs.items() if not spec.is_int]
    columns = [values.reshape(len(values), -1).view(np.uint8) for values in columns]
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
