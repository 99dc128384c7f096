"""The manifest beside a .beton file, ``train.json`` beside ``train.beton``: what it holds and where that came from."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ditscale.errors import UserError
from ditscale.rundir import write_json


@dataclass(frozen=True)
class Manifest:
    name: str                                                                  # of the data set
    split: str                                                                 # train | heldout
    samples: int
    shape: list[int]                                                           # of an image: channels, height, width
    classes: int
    class_counts: list[int]                                                    # samples of class 0, 1, ...
    source: str                                                                # in words, and how the split was drawn
    source_sha256: str                                                         # of the source, before scaling
    content_sha256: str                                                        # of this split as stored, by any writer
    writer: str                                                                # ffcv | numpy
    ditscale_version: str


def content_sha256(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the images' bytes, then of the labels as little-endian int64."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def manifest_path(beton_path) -> Path:
    return Path(beton_path).with_suffix(".json")


def write_manifest(beton_path, manifest: Manifest) -> None:
    try:
        write_json(manifest_path(beton_path), asdict(manifest))
    except OSError as error:
        raise UserError(f"{manifest_path(beton_path)}: cannot be written: {error.strerror}") from None


def read_manifest(beton_path) -> Manifest:
    """The manifest of a .beton file.

    Raises:
        UserError: it is missing or damaged.
    """
    path = manifest_path(beton_path)
    try:
        values = json.loads(path.read_bytes())
        return Manifest(**{field.name: values[field.name] for field in fields(Manifest)})
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; build the data again") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: damaged: {error!r}; build the data again") from None
