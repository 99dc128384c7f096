"""Lists, adds and removes the folders of a run's checkpoints. A folder is complete or absent, even after a kill."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from ditscale.rundir import RunDir, sync_folder, write_atomically


def list_checkpoints(run: RunDir) -> list[Path]:
    """All checkpoint directories, oldest first; a copy under another name is not included."""
    return sorted(path for path in run.checkpoints.glob("images-*") if path.name.removeprefix("images-").isdecimal())


def images_of(checkpoint: Path) -> int:
    """The images seen, from a checkpoint's name."""
    return int(checkpoint.name.removeprefix("images-"))


@contextmanager
def new_folder(run: RunDir, images_seen: int):
    """Yields a folder to write to; if the block succeeds, the folder gets its name, and then ``latest`` names it."""
    final = run.checkpoints / f"images-{images_seen:012d}"
    aside = run.checkpoints / f".{final.name}.{os.getpid()}"
    sweep(run)
    try:
        aside.mkdir(parents=True)
        yield aside
        sync_folder(aside)
        if final.exists():                                                     # damaged or without training state
            remove(final)
        os.rename(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync_folder(run.checkpoints)
    point_latest(run, final)


def point_latest(run: RunDir, checkpoint: Path | None) -> None:
    """Makes ``latest`` name a checkpoint, or removes it."""
    if checkpoint:
        write_atomically(run.checkpoints / "latest", (checkpoint.name + "\n").encode())
    else:
        (run.checkpoints / "latest").unlink(missing_ok=True)


def remove(checkpoint: Path) -> None:
    """Removes a checkpoint, its name first."""
    gone = checkpoint.with_name(f".{checkpoint.name}.gone")
    os.rename(checkpoint, gone)
    sync_folder(checkpoint.parent)
    shutil.rmtree(gone)


def sweep(run: RunDir) -> None:
    """Removes what a killed process was writing or removing."""
    for stale in run.checkpoints.glob(".images-*"):
        shutil.rmtree(stale)
