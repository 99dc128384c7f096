"""Writes large files that appear complete under their name or not at all."""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path

from ditscale.writing import writing


@contextmanager
def written_aside(path, folder: Path | None = None):
    """Yields a path beside ``path``, or in a ``folder`` of the same disk, to write to; when the block ends well, that file takes
    the name ``path``.

    Folders on the way are made. The file reaches the disk before it gets its name, so a crash leaves no half of it.

    Raises:
        UserError: the folder or the file cannot be written, or the disk is full.
    """
    path = Path(path)
    aside = (folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}"   # several processes may build at once
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            if aside.parent.is_dir():
                aside.unlink(missing_ok=True)
