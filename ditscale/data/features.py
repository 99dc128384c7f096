"""An encoder's features of every image of a .beton file, computed once: ``train.NAME.features.npy`` next to ``train.beton``, and a JSON on their source.

The array is float16 (N, flips, T, d): sample i's features at the file's index i, of the image and, if there are two, of its horizontal flip. Training maps
it into memory and reads the rows of a batch, by index and by the flip that is used.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ditscale.data.manifest import read_manifest
from ditscale.data.order import indices_at
from ditscale.errors import UserError, first_line
from ditscale.formats import FEATURES, check_format

if TYPE_CHECKING:
    import torch

    from ditscale.data.loader import Batch

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")                                # of features: a part of their files' names
MAKE = "`ditscale data features` makes it"


class FeatureBatch(NamedTuple):
    """A ``Batch`` with the features of its images: float16 (b, T, d)."""

    raw: "torch.Tensor"
    labels: "torch.Tensor"
    positions: "torch.Tensor"
    features: "torch.Tensor"


@dataclass(frozen=True)
class FeatureFacts:
    """What the JSON next to the array says."""

    name: str
    content_blake2b: str                                                       # of the .beton file: its manifest's
    samples: int
    flips: int                                                                 # 1, or 2: also of each image's horizontal flip
    tokens: int
    width: int
    encoder: str
    encoder_options: dict
    encoder_blake2b: str                                                       # of its weights
    encoder_macs: int                                                          # per image, counted
    images_blake2b: str                                                        # of the images that it saw: their manifest's content
    pca: dict | None                                                           # {"components", "explained": share of the variance, "images": of the fit}
    sha256: str                                                                # of the array's file
    ditscale_version: str


class FeatureFile:
    """The features of a .beton file by their name.

    Raises:
        UserError: they are missing, damaged, or of another file.
    """

    def __init__(self, beton, name: str):
        self.path = features_path(beton, name)
        self.facts = read_facts(self.path)
        facts, content = self.facts, read_manifest(beton).content_blake2b
        if facts.content_blake2b != content:
            raise UserError(f"{self.path}: features of another file (content {facts.content_blake2b[:12]}; {beton} has {content[:12]}); make them again")
        self.shape = (facts.samples, facts.flips, facts.tokens, facts.width)
        try:
            self.array = np.load(self.path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{self.path}: damaged: {first_line(error)}; make it again") from None
        if (self.array.shape, self.array.dtype) != (self.shape, np.float16):
            raise UserError(f"{self.path}: damaged: it holds {self.array.dtype} {self.array.shape}, not float16 {self.shape}; make it again")

    def rows(self, indices: np.ndarray, flipped: np.ndarray) -> np.ndarray:
        """float16 (b, T, d) of these samples; ``flipped`` (b,) is 1 for the flip."""
        return self.array[indices, flipped]


def features_path(beton, name: str, key: str = "features") -> Path:
    """The file of a .beton file's features. Raises UserError if the name, which the user gave as ``key``, cannot be a part of a file's name."""
    if not NAME.fullmatch(name):
        raise UserError(f"{key} '{name}': a name has letters, digits, _ and -, for example dinov2-b")
    return Path(beton).with_suffix(f".{name}.features.npy")


def read_facts(path: Path) -> FeatureFacts:
    """The JSON next to an array of features.

    Raises:
        UserError: it is missing or damaged, or a later ditscale wrote it.
    """
    note = path.with_suffix(".json")
    try:
        values = json.loads(note.read_bytes())
        check_format(FEATURES, values, note)
        return FeatureFacts(**{name: values[name] for name in FeatureFacts.__dataclass_fields__})
    except FileNotFoundError:
        raise UserError(f"{note}: no such file; {MAKE}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{note}: damaged: {first_line(error)}; make the features again") from None


def with_features(batches: "Iterable[Batch]", file: FeatureFile, seed: int, flips: bool) -> "Iterator[FeatureBatch]":
    """The batches of a ``StreamLoader`` with their features.

    Args:
        flips: half of the images are flipped, as in ``prepare``.
    """
    import torch

    from ditscale.randomness import Uniform, draw

    for batch in batches:
        indices = indices_at(batch.positions.numpy(), file.facts.samples, seed)
        flipped = np.zeros_like(indices)
        if flips:
            flipped = (draw(seed, batch.positions, {"flip": Uniform()})["flip"][:, 0] < 0.5).long().numpy()
        yield FeatureBatch(*batch, torch.from_numpy(np.ascontiguousarray(file.rows(indices, flipped))))
