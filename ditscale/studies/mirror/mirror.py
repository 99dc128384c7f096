"""``ditscale mirror``: copies each run's metrics.jsonl and evals.jsonl to an experiment tracker, every line once.

``mirror.json`` in the run's folder records, for each destination, how many lines of each file were sent and their hash. It is written
before and after lines are sent: if a mirror was interrupted in between, or sent lines were withdrawn (a run that went
back to a checkpoint writes them again), the whole run is sent under a new name, and a line says which copy is void. Trackers cannot
withdraw lines.
"""

import hashlib
import importlib
import json
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ditscale.errors import UserError, count
from ditscale.rundir import EVALUATION, RunDir, hold, read_lines, write_json
from ditscale.studies.table.ledger import run_dirs
from ditscale.training.trackers.tracker import evaluation_scalars, metric_scalars


@dataclass(frozen=True)
class Point:
    """The numbers of one line, including ``images_seen``, which is the step."""

    images_seen: int
    values: dict[str, float]


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run that a tracker gets in addition to its lines."""

    config: dict                                                               # resolved, as in run.json, with run_id and study
    passports: dict[str, dict]                                                 # by the id at the end of a score's name
    state: str                                                                 # of status.json


class Mirror(Protocol):
    """One tracker. ``ERRORS`` are the errors that its package raises if a server or a file fails."""

    ERRORS: tuple[type[Exception], ...]
    place: str                                                                 # where it stores data
    hint: str                                                                  # how to view the data

    def __init__(self, study: str): ...

    def has(self, name: str) -> bool | None:
        """Whether it has a run of this name; None if only its server knows."""

    def send(self, name: str, facts: RunFacts, points: list[Point], sent: int) -> None:
        """Adds lines to a run, which is created if missing; ``sent`` were sent before. Returns once they are stored."""


def mirror_study(folder: Path, to: str, say: Callable[[str], None]) -> None:
    """Brings a tracker up to date with every run of a study; returns a line per run.

    Raises:
        UserError: the package is not installed, there is no run, or the tracker or a run's folder cannot be written.
    """
    runs, kind = run_dirs(folder), load(to)
    with _alone(folder), _in_one_line(to, kind.ERRORS):
        mirror = kind(folder.resolve().name)
        for run in runs:
            for line in _damage(run) or mirror_run(run, mirror, to):
                say(line)
        say(mirror.hint)


def _damage(run: RunDir) -> list[str]:
    """Why a run cannot be sent; the other runs are still sent."""
    try:
        run.read_record()
    except UserError as error:
        return [f"{run.run_id}: left out: {error}"]
    return []


def load(to: str) -> type[Mirror]:
    """The class of a tracker. Raises UserError if its package is not installed."""
    try:
        return importlib.import_module(f"ditscale.studies.mirror.{to}").Mirror
    except ModuleNotFoundError as error:
        if error.name != to:
            raise
        raise UserError(f"--to {to}: the package {to} is not installed here; pip install 'ditscale[{to}]' (or: pip install {to})") from None


def mirror_run(run: RunDir, mirror: Mirror, to: str) -> list[str]:
    """Sends the new lines of one run; returns a description."""
    lines = {"metrics": read_lines(run.metrics), "evals": read_lines(run.evals, "images_seen", "passport_id", *EVALUATION)}
    memory = _read_memory(run)
    before = memory.get(f"{to} {mirror.place}")
    name, why = before["name"] if before else run.run_id, _void(before, lines, mirror, run.run_id)
    notes = [f"{run.run_id}: {why}"] if why else []
    if why:
        if mirror.has(name) is not False:
            void, name = name, _new_name(run.run_id, name, mirror)
            notes = [f"{run.run_id}: {why}; {void} there is void and can be deleted, all lines go to {name}"]
        before = None
    counts = {file: before[file]["lines"] if before else 0 for file in lines}
    new = {file: lines[file][counts[file]:] for file in lines}
    if not any(new.values()):
        return [*notes, f"{run.run_id}: nothing new"]
    about = _run_facts(run, lines["evals"])
    after = {"name": name, **{file: {"lines": len(of), "sha256": _digest(of)} for file, of in lines.items()}}
    _write_memory(run, {**memory, f"{to} {mirror.place}": {**after, "whole": False}})
    mirror.send(name, about, _points(**new), sum(counts.values()))
    _write_memory(run, {**memory, f"{to} {mirror.place}": {**after, "whole": True}})
    return [*notes, f"{run.run_id}: {count(len(new['metrics']), 'line')} of metrics.jsonl and {len(new['evals'])} of evals.jsonl"]


def _void(before: dict | None, lines: dict[str, list], mirror: Mirror, run_id: str) -> str:
    """Why lines cannot be added to the tracker's copy of a run; "" if they can."""
    if before is None:
        return f"{mirror.place} has a run of this name that was not sent from here" if mirror.has(run_id) else ""
    if mirror.has(before["name"]) is False:
        return f"{before['name']} is gone from {mirror.place}, so all lines are sent again"
    if not before["whole"]:
        return "an earlier mirror was interrupted while it sent lines"
    for file, of in lines.items():
        if _digest(of[:before[file]["lines"]]) != before[file]["sha256"]:
            return f"lines of {file}.jsonl that were sent have since been dropped or changed: the run went back to a checkpoint"
    return ""


def _new_name(run_id: str, name: str, mirror: Mirror) -> str:
    """``run-id-2``, ``run-id-3``, ...: the next name that the tracker does not have."""
    number = int(name.removeprefix(f"{run_id}-")) if name != run_id else 1
    while True:
        number += 1
        if not mirror.has(f"{run_id}-{number}"):
            return f"{run_id}-{number}"


def _run_facts(run: RunDir, evals: list[dict]) -> RunFacts:
    config = {"run_id": run.run_id, "study": run.path.resolve().parent.name, **run.read_record()["config"]}
    return RunFacts(config, {line["passport_id"]: line["passport"] for line in evals}, run.status()["state"])


def _points(metrics: list[dict], evals: list[dict]) -> list[Point]:
    """In order of images seen: a run's log lines first, then its scores."""
    points = [Point(line["images_seen"], metric_scalars(line)) for line in metrics]
    points += [Point(line["images_seen"], {"images_seen": line["images_seen"], **evaluation_scalars(line)}) for line in evals]
    return sorted(points, key=lambda point: point.images_seen)


def _digest(lines: list[dict]) -> str:
    return hashlib.sha256("\n".join(json.dumps(line) for line in lines).encode()).hexdigest()


def _read_memory(run: RunDir) -> dict:
    try:
        memory = json.loads(run.mirror.read_text())
        good = all(entry.keys() >= {"name", "metrics", "evals", "whole"} for entry in memory.values())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        good = False
    if not good:
        raise UserError(f"{run.mirror} is damaged; delete it to send the run again")
    return memory


def _write_memory(run: RunDir, memory: dict) -> None:
    try:
        write_json(run.mirror, memory)
    except OSError as error:
        raise UserError(f"{run.mirror}: cannot be written, and without it lines would be sent twice: {error.strerror}") from None


@contextmanager
def _alone(folder: Path):
    """Raises UserError if another process is mirroring the study, or the folder cannot be written."""
    try:
        with hold(folder / ".mirror.lock") as mine:
            if not mine:
                raise UserError(f"{folder} is being mirrored by another process")
            yield
    except PermissionError as error:
        raise UserError(f"{folder} cannot be written, and mirror.json in each run's folder records what was sent: {error.strerror}") from None


@contextmanager
def _in_one_line(to: str, errors: tuple[type[Exception], ...]):
    try:
        yield
    except errors as error:
        raise UserError(f"--to {to}: {' '.join(str(error).split()) or type(error).__name__}") from None
