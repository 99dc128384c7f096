"""Lists, adds and removes the folders of a run's checkpoints. A folder is complete or absent, even after a kill."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from ditscale.config import RunConfig
from ditscale.rundir import RunDir, sync_folder, write_atomically
from ditscale.training.parent import start_images
from ditscale.training.schedule import reached

STATES = MASTERS, OPTIMIZER, TEACHER, OBJECTIVE = "masters.safetensors", "optimizer.safetensors", "teacher.safetensors", "objective.safetensors"
TAKEN = "branched"                                                             # in a checkpoint from which a branch has started: its run id


def list_checkpoints(run: RunDir) -> list[Path]:
    """All checkpoint directories, oldest first; a copy under another name is not included."""
    return sorted(path for path in run.checkpoints.glob("images-*") if path.name.removeprefix("images-").isdecimal())


def images_of(checkpoint: Path) -> int:
    """The images seen, from a checkpoint's name."""
    return int(checkpoint.name.removeprefix("images-"))


def has_state(checkpoint: Path) -> bool:
    """Whether more than its averages was kept."""
    return (checkpoint / MASTERS).exists() or (checkpoint / OPTIMIZER).exists()


def is_awaited(config: RunConfig, checkpoint: Path) -> bool:
    """Whether a branch is still to start from a checkpoint."""
    return images_of(checkpoint) in config.resources.branch_images and not (checkpoint / TAKEN).exists()


def drop_outdated(run: RunDir, config: RunConfig, images_seen: int) -> None:
    """Removes all but the averages of old checkpoints: all except the last ``keep_checkpoints``, those that branches wait for and the ones to
    keep permanently. A checkpoint saved by a stop or only for a branch is removed completely, as a run stopped often would fill the disk.

    The last is the one at ``images_seen``: any after it were damaged and skipped. Averages that a branch has of its parent stay.
    """
    keep, every, batch = config.resources.keep_checkpoints, config.resources.keep_every_images, config.train.global_batch
    for old in [path for path in list_checkpoints(run) if images_of(path) <= images_seen][:-keep]:
        if every and reached(images_of(old), every, batch) or is_awaited(config, old):
            continue
        if images_of(old) >= start_images(config) and not reached(images_of(old), config.train.checkpoint_every_images, batch):
            remove(old)
            continue
        for name in STATES:
            (old / name).unlink(missing_ok=True)


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
