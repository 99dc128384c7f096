"""The start of a branch: its parent's training state at the branch point becomes its own first checkpoint. No torch.

Files are linked, or copied where a file system has no links, so neither run can damage the other's. The parent keeps the state until
the branch has started: see ``folders.is_awaited``.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ditscale.config import RunConfig, resolve
from ditscale.errors import UserError
from ditscale.rundir import DONE, FAILED, RUNNING, RunDir, read_lines
from ditscale.training.checkpoint.folders import MASTERS, STATES, TAKEN, drop_outdated, has_state, images_of, list_checkpoints, new_folder
from ditscale.training.checkpoint.whole import damage
from ditscale.training.schedule import reached

STATE_FILE = "state.json"


def parent_of(run: RunDir, config: RunConfig) -> RunDir:
    """The parent's directory: runs of one study are next to each other."""
    return RunDir(run.path.parent / config.parent.run)


def has_started(run: RunDir) -> bool:
    """Whether a run has a training state to continue from."""
    return any(map(has_state, list_checkpoints(run)))


def why_not_yet(run: RunDir, config: RunConfig) -> str:
    """Why a branch cannot start now, in words; "" if it can, if it has, or if the run is no branch."""
    if not _waits(run, config):
        return ""
    status = parent_of(run, config).status()
    return why_never(run, config) or (f"waits for its trunk {config.parent.run}: {status['state']}, {status['images_seen']:,} of "
                                      f"{config.parent.images:,} images")


def why_never(run: RunDir, config: RunConfig) -> str:
    """Why a branch cannot start whatever its trunk does next, or as its trunk failed; "" if there is no such reason."""
    if not _waits(run, config):
        return ""
    parent, images = parent_of(run, config), config.parent.images
    status = parent.status()
    if status["images_seen"] > images or status["state"] == DONE:
        return (f"its trunk {parent.run_id} is past {images:,} images and has no training state there, as it was not asked to keep it or it was removed; "
                f"remove {parent.path} to train the trunk again, or take this length out of train.branches")
    if status["state"] == FAILED:
        return f"its trunk {parent.run_id} failed at {status['images_seen']:,} of the {images:,} images that it needs: {status['reason']}"
    return ""


def _waits(run: RunDir, config: RunConfig) -> bool:
    return config.parent is not None and not has_started(run) and not (_at(parent_of(run, config), config.parent.images) / MASTERS).exists()


def branch_off(run: RunDir, config: RunConfig) -> None:
    """Takes up the parent's state in a branch that has not started, and records what it cost.

    Raises:
        UserError: the parent does not have the state, or it is damaged.
        OSError: it could not be copied.
    """
    if has_started(run):
        return
    if problem := why_not_yet(run, config):
        raise UserError(problem)
    parent, images = parent_of(run, config), config.parent.images
    if problem := damage(_at(parent, images), _files(_at(parent, images))):
        raise UserError(f"its trunk's checkpoint {_at(parent, images)} is damaged: {problem}; remove {parent.path} to train the trunk again, or take this "
                        "length out of train.branches")
    trained = resolve(parent.read_record()["config"], str(parent.record))
    if config.train.ema_lengths:                                               # other lengths are rebuilt from all snapshots
        for earlier in list_checkpoints(parent):
            if images_of(earlier) < images and reached(images_of(earlier), trained.train.checkpoint_every_images, trained.train.global_batch):
                _take(earlier, [name for name in _files(earlier) if name not in STATES], run)
    _take(_at(parent, images), _files(_at(parent, images)), run)
    run.update_record(parent={"run": parent.run_id, "images": images, **_spent(parent, images)})
    run.set_status(RUNNING, images_seen=images)
    print(f"Branches off {parent.run_id} at {images:,} images", flush=True)
    with suppress(OSError):                                                    # another user's: its states stay
        (_at(parent, images) / TAKEN).write_text(run.run_id + "\n")
        if parent.status()["state"] == DONE:                                   # otherwise it drops them at its next checkpoint
            drop_outdated(parent, trained, images_of(list_checkpoints(parent)[-1]))


def _at(run: RunDir, images: int) -> Path:
    return run.checkpoints / f"images-{images:012d}"


def _files(checkpoint: Path) -> list[str]:
    """The files of a checkpoint, as its state.json lists them; empty if that is damaged, which ``damage`` reports."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return list(json.loads((checkpoint / STATE_FILE).read_text())["sha256"])
    return []


def _take(checkpoint: Path, files: list[str], run: RunDir) -> None:
    with new_folder(run, images_of(checkpoint)) as folder:
        for name in (STATE_FILE, *files):
            _link(checkpoint / name, folder / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _spent(parent: RunDir, images: int) -> dict[str, float]:
    """What training the parent took up to there; it has a log line at each checkpoint."""
    lines = [line for line in read_lines(parent.metrics, "images_seen", "seconds") if line["images_seen"] <= images]
    hours = [line["accelerator_hours"] for line in lines if "accelerator_hours" in line]
    return {"train_seconds": sum(line["seconds"] for line in lines), **({"accelerator_hours": hours[-1]} if hours else {})}
