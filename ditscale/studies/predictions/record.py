"""``predictions.jsonl`` of a study: one line a prediction, only ever added to. Each has the SHA-256 of what it says.

The hash is of the line's JSON with sorted keys, without ``format`` and ``sha256`` themselves: a prediction that was edited after the
fact no longer has its hash, and every table says so. What it cannot show is a line that was deleted: keep the file in version control.
"""

import hashlib
import json
from pathlib import Path

from ditscale.errors import UserError
from ditscale.formats import KEY
from ditscale.rundir import append_line, read_lines

NAME = "predictions.jsonl"
NEEDED = ("sha256", "date", "target", "rungs", "predicted")


def content_sha256(record: dict) -> str:
    """The hash that the line of a prediction has if it is as it was written."""
    content = {name: value for name, value in record.items() if name not in (KEY, "sha256")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def add(study: Path, record: dict) -> dict:
    """Add a prediction to a study's file; returns it with its hash.

    Raises:
        UserError: the file cannot be written.
    """
    hashed = {**record, "sha256": content_sha256(record)}
    try:
        append_line(study / NAME, hashed)
    except OSError as error:
        raise UserError(f"{study / NAME} cannot be written: {error.strerror}") from None
    return hashed


def predictions(study: Path) -> list[dict]:
    """All predictions of a study, in the order in which they were made; a damaged line is left out with a warning."""
    return read_lines(Path(study) / NAME, *NEEDED)
