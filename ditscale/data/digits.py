"""The demo's data: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, which come with the package.

The held-out part is 36 digits of each class (360, a fifth), drawn once with a fixed seed; the other 1,437 are for
training. Balanced classes make it a fair reference for samples with balanced labels. The 13 people who wrote the digits
appear on both sides: the split tests for memorized digits, not for unknown handwriting.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ditscale
from ditscale.data.beton import BetonFile
from ditscale.data.ffcv_import import build_beton
from ditscale.data.manifest import Manifest, content_blake2b, manifest_if_any, read_manifest, stored_blake2b, write_manifest
from ditscale.data.order import epoch_order
from ditscale.errors import UserError

CLASSES, HELDOUT_A_CLASS, SPLIT_SEED = 10, 36, 20_240_611
SPLITS = ("train", "heldout")
SOURCE = ("sklearn.datasets.load_digits, values 0..16 scaled to 0..255; "
          f"held out: {HELDOUT_A_CLASS} a class, split seed {SPLIT_SEED}")


@dataclass(frozen=True)
class DigitsSummary:
    """The files in the folder."""

    folder: Path
    train: Manifest
    heldout: Manifest
    built: bool                                                                # False: it already existed

    def __str__(self) -> str:
        how = f"written by {self.train.writer}" if self.built else "already there, checked"
        return (f"{self.folder}: {self.train.samples} training and {self.heldout.samples} held-out digits "
                f"of 8 x 8 pixels ({how})")


def build_digits(folder) -> DigitsSummary:
    """Write train.beton and heldout.beton, and a manifest next to each, into ``folder``.

    Fields: 'image' uint8 (1, 8, 8), 'label' integer. Does nothing if both files are complete and match
    their manifests.

    Raises:
        UserError: the folder cannot be written, or is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, not a folder to build the digits in")
    if all(_is_current(folder, split) for split in SPLITS):
        return _summary(folder, built=False)
    images, labels, source_blake2b = load_digits()
    heldout = heldout_mask(labels)
    for split, chosen in zip(SPLITS, (~heldout, heldout)):
        path = folder / f"{split}.beton"
        writer = build_beton(path, {"image": images[chosen], "label": labels[chosen]})
        write_manifest(path, Manifest(
            name="digits", split=split, samples=int(chosen.sum()), shape=list(images.shape[1:]), classes=CLASSES,
            class_counts=np.bincount(labels[chosen], minlength=CLASSES).tolist(), source=SOURCE,
            source_blake2b=source_blake2b, content_blake2b=content_blake2b(images[chosen], labels[chosen]), writer=writer,
            ditscale_version=ditscale.__version__))
    return _summary(folder, built=True)


def load_digits() -> tuple[np.ndarray, np.ndarray, str]:
    """Images uint8 (1797, 1, 8, 8) in 0..255, labels int64 (1797,), and the source's hash (pixels still in 0..16)."""
    from sklearn import datasets

    source = datasets.load_digits()
    pixels, labels = source.images.astype(np.uint8), source.target.astype(np.int64)
    images = np.round(pixels * (255 / 16)).astype(np.uint8)[:, None]
    return images, labels, content_blake2b(pixels, labels)


def heldout_mask(labels: np.ndarray) -> np.ndarray:
    """Which samples are held out, bool (N,): the first 36 of each class in the order given by the split's seed."""
    order = epoch_order(len(labels), SPLIT_SEED, 0)
    mask = np.zeros(len(labels), dtype=bool)
    for label in range(CLASSES):
        mask[order[labels[order] == label][:HELDOUT_A_CLASS]] = True
    return mask


def _is_current(folder: Path, split: str) -> bool:
    """Whether the split's file can be opened and matches its manifest, and the manifest has this recipe."""
    path = folder / f"{split}.beton"
    manifest = manifest_if_any(path)
    try:
        content = stored_blake2b(BetonFile(path))
    except UserError:
        return False
    return manifest is not None and (manifest.source, manifest.split, manifest.content_blake2b) == (SOURCE, split, content)


def _summary(folder: Path, *, built: bool) -> DigitsSummary:
    train, heldout = (read_manifest(folder / f"{split}.beton") for split in SPLITS)
    return DigitsSummary(folder, train, heldout, built)
