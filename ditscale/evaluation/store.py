"""Features of all samples on disk: float32 .npy files in a scratch folder, one for each field of ``Features``."""

import os
import secrets
from pathlib import Path

import numpy as np

from ditscale.evaluation.extractors import Features
from ditscale.evaluation.metrics.moments import BLOCK


class FeatureStore:
    """``count`` rows, written in any order by any number of processes of one machine, each its own rows.

    ``pooled``, ``spatial`` and ``logits`` are read-only memory maps (count, D), or None if nothing was written. Rows that were not
    written are NaN, so that a missing row is not mistaken for an image.
    """

    def __init__(self, folder, count: int):
        self.folder, self.count = Path(folder), count
        self._maps: dict[str, np.ndarray] = {}

    def put(self, positions: np.ndarray, features: Features) -> None:
        """Writes the rows (B, D) of the images at ``positions`` (B,)."""
        for name, rows in features._asdict().items():
            if rows is not None:
                self._writable(name, rows.shape[1])[np.asarray(positions)] = rows.float().cpu().numpy()

    @property
    def pooled(self) -> np.ndarray | None:
        return self._read("pooled")

    @property
    def spatial(self) -> np.ndarray | None:
        return self._read("spatial")

    @property
    def logits(self) -> np.ndarray | None:
        return self._read("logits")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _read(self, name: str) -> np.ndarray | None:
        return np.load(self._path(name), mmap_mode="r") if self._path(name).exists() else None

    def _writable(self, name: str, dimensions: int) -> np.ndarray:
        if name not in self._maps:
            if not self._path(name).exists():
                self._create(self._path(name), dimensions)
            self._maps[name] = np.load(self._path(name), mmap_mode="r+")
            if self._maps[name].shape != (self.count, dimensions):
                raise ValueError(f"{self._path(name)} has shape {self._maps[name].shape}, not {(self.count, dimensions)}")
        return self._maps[name]

    def _create(self, path: Path, dimensions: int) -> None:
        """Creates a file of NaN atomically; the first of several processes wins."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            rows = np.lib.format.open_memmap(aside, "w+", np.float32, (self.count, dimensions))
            for first in range(0, self.count, BLOCK):
                rows[first:first + BLOCK] = np.nan
            del rows
            os.link(aside, path)                                               # unlike a rename, never replaces an existing file
        except FileExistsError:
            pass
        finally:
            aside.unlink(missing_ok=True)
