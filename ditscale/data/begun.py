"""A .beton file under construction that survives a stop: the next attempt finds its complete rows, verifies them and reuses them.

``N.begun`` is the file; ``N.rows`` has JSON lines: first a hash of the planned result (``plan``), then at intervals the number of rows and the hash of
all of them. After a kill the last rows may not have reached the file; the last line that matches the content counts.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ditscale.data.beton import FieldSpec, begun_records
from ditscale.digest import new_digest

NOTED = "*.rows"                                                               # if one exists, the next attempt has rows to reuse
NOTE_BYTES = 64 << 20                                                          # stored, between two notes


class Begun:
    """The result of an attempt that was stopped. ``rows`` is 0 if there is none.

    Args:
        plan: a hash of the planned result; an attempt with another plan is removed.
        specs: one array field, and integers.
    """

    def __init__(self, folder: Path, plan: str, specs: dict[str, FieldSpec], samples: int):
        self.folder, self.plan, self._specs, self._samples = folder, plan, specs, samples
        self._spec = next(spec for spec in specs.values() if not spec.is_int)
        found = {path: self._whole_rows(path) for path in sorted(folder.glob("*.begun"))}
        self.rows = max(found.values(), default=0)
        self.path = next((path for path, rows in found.items() if rows == self.rows), None) if self.rows else None
        self._number = 1 + max((int(path.stem) for path in found if path.stem.isdigit()), default=0)
        for path in found:
            if path != self.path:
                _remove(path)

    def batches(self) -> Iterator[np.ndarray]:
        """The complete rows, as stored."""
        if self.path:
            for content in begun_records(self.path, self._specs, self._samples, 0, self.rows):
                yield np.frombuffer(content, self._spec.dtype).reshape(-1, *self._spec.shape)

    @contextmanager
    def again(self):
        """Yields (a file to write all of it to, the function that records the progress). The file's path is ``new``; it stays after a failure."""
        self.new, self._noted, self._past = self.folder / f"{self._number}.begun", 0, 0
        with open(self.new, "wb") as file:
            yield file, self._note

    def _note(self, rows: int, digest) -> None:
        """To be called after each batch was hashed."""
        if (rows - self._noted) * self._spec.page_bytes < NOTE_BYTES:
            return
        with open(self.new.with_suffix(".rows"), "a", encoding="utf-8") as file:
            lines = [{"rows": rows, "blake2b": digest.copy().hexdigest()}]
            file.write("".join(json.dumps(line) + "\n" for line in ([] if self._noted else [{"plan": self.plan}]) + lines))
        if self.path and self._noted > self.rows:                              # two notes: the rows of the first have reached the file
            _remove(self.path)
        self._noted = rows

    def _whole_rows(self, path: Path) -> int:
        lines = []
        with suppress(OSError, ValueError):                                    # the last line may be incomplete
            for line in path.with_suffix(".rows").read_text().splitlines():
                lines.append(json.loads(line))
        if not lines or lines[0] != {"plan": self.plan}:
            return 0
        digest, whole = new_digest(), 0
        for line in lines[1:]:
            size = 0
            for content in begun_records(path, self._specs, self._samples, whole, line["rows"]):
                digest.update(content)
                size += len(content)
            if size != (line["rows"] - whole) * self._spec.page_bytes or digest.hexdigest() != line["blake2b"]:
                break
            whole = line["rows"]
        return whole


def _remove(path: Path) -> None:
    for one in (path.with_suffix(".rows"), path):
        with suppress(FileNotFoundError):
            one.unlink()


def finish(begun: Path, path: Path) -> None:
    """Flush a finished file to the disk, then give it its name."""
    with open(begun, "rb") as file:
        os.fsync(file.fileno())
    os.replace(begun, path)
