"""A run directory: the only module that knows its file names. Its files are readable without ditscale.

::

    runs/<study>/<run-id>/
      run.json       identity and resolved config, cost card, environment
      status.json    state, images seen, host, process, reason, warning; number of failures and the log's last lines
      metrics.jsonl  one line per log interval and checkpoint     evals.jsonl  one line per evaluation
      data.json      the manifest of the training data, so that images can be made where the data is not
      checkpoints/   samples/   tb/   log.txt   lock   mirror.json (what ``ditscale mirror`` sent)
"""

import fcntl
import json
import math
import os
import signal
import socket
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

from ditscale.errors import UserError
from ditscale.formats import KEY, LINE, RECORD, STATUS, NewerFormat, check_format, stamped

TAIL = 1 << 16                                                                 # bytes at a file's end that contain its last lines
QUEUED, RUNNING, PREEMPTED, FAILED, DONE = "queued", "running", "preempted", "failed", "done"
KINDS: dict[str, type] = {"images_seen": int, "seconds": float, "images_per_second": float, "accelerator_hours": float, "peak_memory_gib": float,
         "mfu": float, "score": float, "error": float, "floor": float, "failures": int, "state": str, "reason": str, "metric": str,
         "warning": str, "passport": dict, "passport_id": str, "values": dict}
RECORD_KINDS: dict[str, type] = {"config": dict, "cost": dict, "environment": dict}
EVALUATION = ("metric", "score", "passport")                                   # fields that every line of evals.jsonl needs
NEVER_NULL = ("accelerator_hours", "peak_memory_gib")                            # fields that are numbers or absent, never null
WORDS = {int: "a whole number", float: "a number", str: "text", dict: "an object"}
STOPPED = (75, 130, 138, 143, -2, -10, -15)                                    # exit codes: SIGINT, SIGUSR1, SIGTERM
CRASHED = ("SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE")      # signals that are not used to stop a run
BEFORE_FIRST = "before the first"                                              # step or checkpoint: for a stop with nothing to save
MOST_KEPT, LARGEST_KEPT = 1024, 1 << 17                                        # files whose parsed lines are kept, bytes of one
LAST_LINES = 10                                                                # of the log, kept in a failed run's status

_KEPT: dict[Path, tuple[tuple[int, int, int], list]] = {}                      # by file: inode, size and time of change; its lines


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces a file atomically: it is the old one or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to disk, as ``os.fsync`` does for a file's content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value) -> None:
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


@contextmanager
def hold(path: Path):
    """Holds a lock file for this process; yields False if another process holds it. The kernel releases it when the process ends."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


class RunDir:
    """One run's directory and its files."""

    def __init__(self, path):
        self.path = Path(path)
        self.record = self.path / "run.json"
        self.log = self.path / "log.txt"
        self.metrics = self.path / "metrics.jsonl"
        self.evals = self.path / "evals.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.tensorboard = self.path / "tb"
        self.mirror = self.path / "mirror.json"
        self.manifest = self.path / "data.json"

    @property
    def run_id(self) -> str:
        return self.path.name

    def create(self, record: dict) -> None:
        """Creates the directory with its record, in state ``queued``.

        An existing record is updated, as resources and paths may have changed. The record of a finished run (if not
        damaged) or of an active run is left unchanged.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.record.exists():
                self.set_status(QUEUED, images_seen=0)
                write_json(self.record, stamped(RECORD, record))
            elif (self.status()["state"] != DONE or self.has_damaged_record()) and not self.is_locked():
                write_json(self.record, stamped(RECORD, {**self._record_before(), **record}))
        except OSError as error:
            raise UserError(f"cannot write the run directory {self.path}: {error.strerror}") from None

    def read_record(self) -> dict:
        try:
            record = json.loads(self.record.read_text())
        except (FileNotFoundError, NotADirectoryError):
            is_there = os.path.lexists(self.path)
            raise UserError(f"{self.path} is not a run directory: it has no run.json" if is_there else f"{self.path}: no such run") from None
        except OSError as error:
            raise UserError(f"{self.record} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"{self.record} is damaged: {error}") from None
        check_format(RECORD, record, self.record)
        if problem := misfit(record, ("config",), RECORD_KINDS):
            raise UserError(f"{self.record} is damaged: {problem}")
        return record

    def has_damaged_record(self) -> bool:
        """Whether there is an unusable record."""
        try:
            if self.record.exists():
                self.read_record()
        except NewerFormat:
            return False
        except UserError:
            return True
        return False

    def _record_before(self) -> dict:
        """The existing record; empty if it is damaged, as the study can write it again."""
        try:
            return self.read_record()
        except NewerFormat:
            raise
        except UserError as error:
            warnings.warn(f"{error}; it is written again", stacklevel=1)
            return {}

    def update_record(self, **fields) -> None:
        write_json(self.record, stamped(RECORD, {**self.read_record(), **fields}))

    def status(self) -> dict:
        """The last status written, or ``{"state": "queued", "images_seen": 0}`` if there is none or it is damaged.

        Raises:
            NewerFormat: a later ditscale wrote it.
        """
        path, unknown = self.path / "status.json", {"state": QUEUED, "images_seen": 0}
        try:
            status = json.loads(path.read_text())
            check_format(STATUS, status, path)
            problem = misfit(status, ("state", "images_seen"))
        except (FileNotFoundError, NotADirectoryError):
            return unknown
        except NewerFormat:
            raise
        except (OSError, ValueError) as error:
            problem = str(error)
        if problem:
            warnings.warn(f"{path} is damaged: {problem}; the run counts as queued", stacklevel=1)
            return unknown
        status.pop(KEY, None)                                                  # belongs to the file, not to the run
        return status

    def set_status(self, state: str, *, images_seen: int, reason: str = "", warning: str | None = None) -> None:
        """Writes the status. A ``warning`` of None keeps the existing one, even after the run ends."""
        before, failed = self.status(), state == FAILED
        status = {"state": state, "images_seen": images_seen, "host": socket.gethostname(), "pid": os.getpid(), "reason": reason,
                  "warning": before.get("warning", "") if warning is None else warning, "time": time.time(),
                  "failures": before.get("failures", 0) + failed}
        write_json(self.path / "status.json", stamped(STATUS, {**status, "last_lines": self.last_lines()} if failed else status))

    def evaluations(self, images_seen: int | None, passport_id: str) -> list[dict]:
        """The lines of evals.jsonl at so many images under a passport, in their order. None: imported weights, images not known."""
        needed = ("passport_id",) if images_seen is None else ("images_seen", "passport_id")
        return [line for line in read_lines(self.evals, *needed)
                if (line.get("images_seen"), line["passport_id"]) == (images_seen, passport_id)]

    def last_lines(self) -> list[str]:
        """The log's last non-empty lines, each cut to 300 characters."""
        if not self.log.exists():
            return []
        with open(self.log, "rb") as log:
            log.seek(max(0, self.log.stat().st_size - 65536))
            lines = log.read().decode(errors="replace").splitlines()
        return [line[:300] for line in lines if line.strip()][-LAST_LINES:]

    def settle(self, exit_code: int, *, since: float = 0.0, was_asked: bool = False) -> None:
        """Writes the final status of a worker that was killed. Does nothing if the worker wrote it or another worker is active.

        Args:
            since: Unix time in seconds at which it was started; an earlier final status is not from it.
            was_asked: whether it was asked to stop; then it has not failed, wherever it was.
        """
        status = self.status()
        is_its_own = status["state"] in (FAILED, PREEMPTED) and status.get("time", since) >= since
        if status["state"] == DONE or self.is_locked():
            return
        crash = "" if was_asked else crash_signal(exit_code)
        was_ended = status["state"] == PREEMPTED and BEFORE_FIRST in status["reason"]
        if is_its_own and not (crash and was_ended):                           # by its launcher, after another rank crashed
            return
        if is_its_own:
            reason = f"a process of the run was ended by {crash}{', for example because memory ran out' if crash == 'SIGKILL' else ''}"
            self.set_status(FAILED, images_seen=status["images_seen"], reason=reason)
            return
        if was_asked or exit_code in STOPPED:
            self.set_status(PREEMPTED, images_seen=status["images_seen"], reason="stopped before it could save anything")
            return
        log_line = (self.last_lines() or ["(empty log)"])[-1]
        self.set_status(FAILED, images_seen=status["images_seen"], reason=f"ended with exit code {exit_code}: {log_line}")

    def lock(self):
        """Holds the run for this process, see ``hold``."""
        return hold(self.path / "lock")

    def is_locked(self) -> bool:
        """Whether some process is working on this run now. Checked without writing, as the run may be another user's."""
        try:
            with open(self.path / "lock") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (FileNotFoundError, NotADirectoryError):
            return False
        return False


def crash_signal(exit_code: int) -> str:
    """The signal that killed a process, from its exit code or its launcher's (-9, 137, 247); "" if it is not in ``CRASHED``."""
    number = -exit_code if exit_code < 0 else exit_code - 128 if 128 < exit_code < 192 else 256 - exit_code
    name = signal.Signals(number).name if number in list(signal.Signals) else ""
    return name if name in CRASHED else ""


def append_line(path: Path, record: dict) -> None:
    """Appends one JSON object as one line with its format, also to a file with an incomplete last line."""
    with open(path, "a+b") as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
        ends_whole = not size or file.read(1) == b"\n"
        file.write((b"" if ends_whole else b"\n") + json.dumps(stamped(LINE, record), allow_nan=False).encode() + b"\n")


def misfit(record, needed: tuple[str, ...], kinds: dict[str, type] = KINDS) -> str:
    """What is wrong with an object of a run's file; "" if it has all of ``needed``, with values of these kinds."""
    if not isinstance(record, dict):
        return f"{str(record)[:40]!r} is not an object"
    return _lacking(record, needed) or _wrong_kind(record, kinds)


def _lacking(record: dict, needed: tuple[str, ...]) -> str:
    missing = [name for name in needed if record.get(name) is None]
    return f"it has no {', '.join(missing)}" if missing else ""


def _wrong_kind(record: dict, kinds: dict[str, type]) -> str:
    for name, value in record.items():
        kind = float if name.startswith(("loss/", "watch/")) else kinds.get(name)
        if kind is None or (value is None and name not in NEVER_NULL):
            continue
        if not (isinstance(value, kind) if kind in (str, dict) else type(value) in (int, kind) and math.isfinite(value)):
            return f"{name} is {str(value)[:40]!r}, which is not {WORDS[kind]}"
    return ""


def scan_lines(path: Path, *needed: str) -> tuple[list[dict], list[tuple[int, str]]]:
    """The complete lines of a JSON-lines file that have all of ``needed``; and number and problem of the other lines."""
    records, problems = [], []
    for number, record, problem in _lines(path):
        problem = problem if record is None else _lacking(record, needed) or problem
        if record is None or problem:
            problems.append((number, problem))
        else:
            records.append({**record})
    return records, problems


def _lines(path: Path) -> list[tuple[int, dict | None, str]]:
    """Number, object and problem of each line that is not empty. Those of an unchanged file are kept, as a report reads each several times."""
    try:
        if not path.exists():
            return []
        state = path.stat()
        stamp = state.st_ino, state.st_size, state.st_mtime_ns
        if _KEPT.get(path, ((),))[0] == stamp:
            return _KEPT[path][1]
        text = path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    found = [(number, *_parsed(line, f"{path} line {number}")) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    _KEPT.pop(path, None)
    if len(_KEPT) < MOST_KEPT and state.st_size <= LARGEST_KEPT:
        _KEPT[path] = stamp, found
    return found


def _parsed(line: str | bytes, where) -> tuple[dict | None, str]:
    """A line's object without its format (a property of the file, not of the run), None if it is none; and what is wrong with it, or ""."""
    try:
        record = json.loads(line)
        check_format(LINE, record, where)
        problem = misfit(record, ())
    except NewerFormat:
        raise
    except (ValueError, RecursionError):
        return None, "incomplete, or not JSON"
    if not isinstance(record, dict):
        return None, problem
    record.pop(KEY, None)
    return record, problem


def read_lines(path: Path, *needed: str) -> list[dict]:
    """The complete lines of a JSON-lines file that have ``needed``, default ``images_seen``; a warning names each other one,
    once per process."""
    return _read_and_say(path, needed or ("images_seen",))


def _read_and_say(path: Path, needed: tuple[str, ...]) -> list[dict]:
    records, problems = scan_lines(path, *needed)
    for number, problem in problems:
        warnings.warn(f"{path} line {number} is left out: {problem}", stacklevel=1)
    return records


def last_line(path: Path, *needed: str) -> dict | None:
    """The last of ``read_lines``, without reading the whole file if its last line is usable; None if there is none."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        last = file.read().rstrip().rpartition(b"\n")[2]
    record, problem = _parsed(last, path)
    if record is None or problem or _lacking(record, needed):
        return next(reversed(_read_and_say(path, needed)), None)
    return record


def keep_lines(path: Path, wanted) -> None:
    """Keeps only the lines for which ``wanted(record)`` is true; used to drop lines that a resumed run will write again."""
    if path.exists():
        kept = [record for record in read_lines(path) if wanted(record)]
        write_atomically(path, "".join(json.dumps(stamped(LINE, record)) + "\n" for record in kept).encode())
