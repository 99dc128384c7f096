"""Parquet files as on the Hugging Face hub: a column of images, each {bytes, path}, and a column of class numbers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ditscale.data.sources.base import Request, Source, one_split, stamp
from ditscale.data.sources.classes import number_classes
from ditscale.errors import UserError, count

IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")
SPLIT_NAME = re.compile(r"(.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.parquet")            # train-00000-of-00005.parquet


class ParquetReader:
    """Reads images by (file, row group, row in the group), and keeps the last row group: rows are requested in order."""

    def __init__(self, files: list[Path], column: str):
        self._files, self._column = files, column
        self._place: tuple[int, int] | None = None
        self._values: Any = None                                                # the column's, of that row group

    def __getstate__(self):
        return {**self.__dict__, "_place": None, "_values": None}

    def read(self, place) -> bytes:
        file, group, row = place
        if self._place != (file, group):
            self._place, self._values = (file, group), _open(self._files[file]).read_row_group(group, [self._column])[0]
        value = self._values[row].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise ValueError("the row holds no bytes, only a path")
        return content


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.parquet") if path.is_file())


def open_parquet(request: Request) -> Source:
    """See ``open_source``. Rows keep their order, files are sorted by name."""
    request.without_labels()
    files = files_below(request.path) if request.path.is_dir() else [request.path]
    matches = {file: SPLIT_NAME.fullmatch(file.name) for file in files}
    splits = {match[1] for match in matches.values() if match} if all(matches.values()) else set()
    split = one_split(request.path, splits if request.path.is_dir() else (), request.split)
    files = [file for file in files if split is None or matches[file][1] == split]
    schema = _open(files[0]).schema_arrow
    image, label = (next((name for name in names if name in schema.names), None) for names in (IMAGES, LABELS))
    label = None if request.unlabeled else label
    if image is None:
        raise UserError(f"{files[0]}: needs a column '{IMAGES[0]}'; it has {', '.join(schema.names)}")
    names, places, labels = [], [], []
    for number, file in enumerate(files):
        parquet, row = _open(file), 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            places += [(number, group, place) for place in range(rows)]
            names += [f"{file.name}:{row + place}" for place in range(rows)]
            row += rows
        labels.append(_column(file, parquet, label) if label else np.zeros(row, np.int64))
    if not names:
        raise UserError(f"{request.path}: no rows in it")
    values, class_names = np.concatenate(labels), _class_names(schema, label)
    if label:
        values, class_names = number_classes(request, request.path, values, len(names), class_names)
    missing = "no labels are read" if request.unlabeled else f"no column '{LABELS[0]}'"
    notes = [] if label else [f"{missing}: all images are of one class, 0, for unconditional training"]
    return Source(f"parquet {request.path.resolve().name}", split or "all", names, values, class_names, places,
                  ParquetReader(files, image), stamp(*files), notes)


def _open(file: Path):
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: reading parquet needs pyarrow: pip install pyarrow") from None
    try:
        return pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise UserError(f"{file}: not a complete parquet file: {' '.join(str(error).split())}") from None


def _column(file: Path, parquet, name: str) -> np.ndarray:
    """The labels of a file; a missing one is an error."""
    if name not in parquet.schema_arrow.names:
        raise UserError(f"{file}: has no column '{name}', which other files have")
    values = parquet.read([name])[0]
    if values.null_count:
        raise UserError(f"{file}: {count(values.null_count, 'row has', 'rows have')} no {name}")
    return values.to_numpy()


def _class_names(schema, label: str | None) -> list[str] | None:
    """Class names that the hub's ``datasets`` library stores in the file."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return list(features[label]["names"])
    except (TypeError, KeyError, ValueError):
        return None
