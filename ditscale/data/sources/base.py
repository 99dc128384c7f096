"""The interface of a source of images: a list in a fixed order, and a reader that worker processes can use."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ditscale.errors import UserError

MOST_CLASSES = 1_000_000                                                        # a larger label is a mistake, such as an id


@dataclass(frozen=True)
class Request:
    """The user's options."""

    path: Path
    labels: Path | None
    split: str | None
    scratch: Path
    unlabeled: bool = False                                                     # ignore labels: all are 0
    first_label: int = 0                                                        # the number of the first class
    empty_classes: bool = False                                                 # classes may have no image in this split
    as_images: bool = False                                                     # to be inspected: only folders give labels

    def without_labels(self) -> None:
        """Raises UserError if a labels file is given, as this source has its own labels."""
        if self.labels is not None:
            raise UserError(f"--labels {self.labels}: {self.path} holds its own labels; leave --labels out")


class Reader(Protocol):
    def read(self, place) -> bytes | np.ndarray:
        """The encoded image, or its pixels, at a place of ``Source.places``. Called in worker processes."""


@dataclass(frozen=True)
class Source:
    """Images in a fixed order, the same on every machine. Item i is called ``names[i]`` and has class ``labels[i]``."""

    words: str                                                                  # for the manifest, without the machine's paths
    split: str
    names: list[str]
    labels: np.ndarray                                                          # int64
    class_names: list[str] | None
    places: list[Any]                                                           # the reader's position of each
    reader: Reader
    stamp: str                                                                  # changes with the files
    notes: list[str] = field(default_factory=list)                              # notes for the user

    @property
    def classes(self) -> int:
        return len(self.class_names) if self.class_names else int(self.labels.max()) + 1

    def key(self, part: slice) -> str:
        """Changes when an image of this part may have changed: by names, sizes and times, without reading pixels."""
        seen = (self.stamp, self.names[part], self.labels[part].tolist(), self.places[part])
        return hashlib.sha256(repr(seen).encode()).hexdigest()


def stamp(*paths) -> str:
    """Size and time of change of files."""
    stats = [os.stat(path) for path in paths]
    return repr([(os.fspath(path), stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, stats)])


def checked_labels(where, values, count: int) -> np.ndarray:
    """Labels as int64. Raises UserError unless there is one non-negative integer for each of ``count`` images."""
    labels = np.asarray(values)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise UserError(f"{where}: labels of shape {labels.shape} for {count:,} image{'s' * (count != 1)}; one number for each is needed")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where}: labels are {labels.dtype}; integers from 0 are needed")
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        raise UserError(f"{where}: label {wrong} is not between 0 and {MOST_CLASSES - 1}; classes are counted from 0")
    return labels.astype(np.int64)


def one_split(where, splits, wanted: str | None) -> str | None:
    """The split to use, None if the source has no splits. Raises UserError if it is ambiguous or missing."""
    offer = ", ".join(sorted(splits))
    if not splits and wanted is not None:
        raise UserError(f"--split {wanted}: {where} has no splits; leave --split out")
    if wanted is not None and wanted not in splits:
        raise UserError(f"--split {wanted}: {where} has {offer}")
    if wanted is None and len(splits) > 1:
        raise UserError(f"{where}: has the splits {offer}; choose one with --split")
    return wanted or next(iter(splits), None)
