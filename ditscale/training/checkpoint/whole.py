"""Verifies the files of a checkpoint against their recorded hashes; everything that loads weights calls it first."""

import json
from functools import lru_cache
from pathlib import Path

from ditscale.digest import file_sha256
from ditscale.formats import STATE, NewerFormat, check_format


def was_saved(checkpoint: Path, file: str) -> bool:
    """Whether the checkpoint has, or once had, this file."""
    try:
        return (checkpoint / file).exists() or file in json.loads((checkpoint / "state.json").read_text())["sha256"]
    except (OSError, ValueError, TypeError, KeyError):                         # a damaged state.json lists nothing
        return False


def damage(checkpoint: Path, files: list[str]) -> str:
    """What is wrong with these files of a checkpoint, by the sha256 in its state.json; "" if nothing.

    Raises:
        NewerFormat: a later ditscale saved it.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text())
        check_format(STATE, state, checkpoint / "state.json")
        expected = state.get("sha256") if isinstance(state, dict) else None
        if not isinstance(expected, dict):
            return "state.json is damaged: it has no object 'sha256'"
        for name in files:
            if name not in expected:
                return f"its state.json has no sha256 of {name}"
            if _sha256(checkpoint / name) != expected[name]:
                return f"{name} does not match its sha256 in state.json"
    except NewerFormat:
        raise
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or checkpoint).name} cannot be read: {error.strerror or error}"
    except ValueError as error:
        return f"state.json is damaged: {error}"
    return ""


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_as_it_stands(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_as_it_stands(path: Path, size: int, changed_ns: int) -> str:
    """A file is hashed once per process unless it changes, as that takes seconds for a large model."""
    return file_sha256(path)
