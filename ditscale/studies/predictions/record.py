"""``predictions.jsonl`` of a study: one line per prediction, append-only. Each has the SHA-256 of its content.

The hash is of the line's JSON with sorted keys, without ``format`` and ``sha256`` themselves: an edited prediction
no longer matches its hash, and every table says so. It cannot detect a deleted line: keep the file in version control.
"""

import hashlib
import json
from pathlib import Path

from ditscale.formats import KEY
from ditscale.rundir import append_line, read_lines
from ditscale.writing import writing

NAME = "predictions.jsonl"
NEEDED = ("sha256", "date", "target", "rungs", "predicted")


def content_sha256(record: dict) -> str:
    """The hash of a prediction's line if it is unaltered."""
    content = {name: value for name, value in record.items() if name not in (KEY, "sha256")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def add(study: Path, record: dict) -> dict:
    """Adds a prediction to a study's file; returns it with its hash.

    Raises:
        UserError: the file cannot be written.
    """
    hashed = {**record, "sha256": content_sha256(record)}
    with writing(study / NAME):
        append_line(study / NAME, hashed)
    return hashed


def predictions(study: Path) -> list[dict]:
    """All predictions of a study, in order of date; a damaged line is left out with a warning."""
    return read_lines(Path(study) / NAME, *NEEDED)
