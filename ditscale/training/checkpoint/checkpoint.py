"""Checkpoints that are complete or absent, independent of world size and ZeRO stage.

::

    checkpoints/images-000001280000/
      masters.safetensors    fp32 weights by parameter name
      optimizer.safetensors  the optimizer's state, as ``exp_avg.<name>``, ``exp_avg_sq.<name>``
      ema*.safetensors       averaged weights by parameter name, one file an average: all that sampling needs
      teacher.safetensors    the teacher's fp32 weights by parameter name, where there is a teacher
      objective.safetensors  the objective's buffers, where it has any
      state.json             images seen, steps, the optimizer's steps, and the sha256 of each file
    checkpoints/latest       the newest name, moved only after that directory is whole and verified (folders.py, tensorfile.py)

Only safetensors and JSON are read: loading never unpickles anything.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from ditscale.config import RunConfig
from ditscale.errors import TrainingFailed
from ditscale.formats import STATE, stamped
from ditscale.ranks import World
from ditscale.rundir import RUNNING, RunDir, keep_lines, read_lines, write_json
from ditscale.tensorfile import write_verified
from ditscale.training.checkpoint.folders import images_of, list_checkpoints, new_folder, point_latest, remove, sweep
from ditscale.training.checkpoint.whole import damage
from ditscale.training.ema.ema import Averages, Teacher
from ditscale.training.ema.profiles import MAIN
from ditscale.training.optimizers import Optimizer
from ditscale.training.schedule import reached
from ditscale.training.zero import zero
from ditscale.training.zero.layout import Layout

MASTERS, OPTIMIZER, TEACHER, OBJECTIVE = (f"{name}.safetensors" for name in ("masters", "optimizer", "teacher", "objective"))


@dataclass
class TrainingState:
    """What a run needs back to go on as if it had never stopped."""

    engine: Any                                                                # DeepSpeed's
    optimizer: Optimizer
    layout: Layout
    averages: Averages
    teacher: Teacher | None
    buffers: dict[str, Tensor]                                                 # the objective's own; entries are replaced

    @property
    def files(self) -> list[str]:
        """The files of one checkpoint of this run."""
        return [MASTERS, OPTIMIZER, *map(average_file, self.averages.tracks), *([TEACHER] if self.teacher else []),
                *([OBJECTIVE] if self.buffers else [])]

    @property
    def optimizer_steps(self) -> dict[str, int]:
        """The optimizer's own count, as for a bias correction, where it has one: without the steps that were passed over."""
        return {"optimizer_steps": int(self.flat_states()[0]["step"].item())} if self.optimizer.counts_steps else {}

    def flat_states(self) -> list[dict]:
        """The optimizer's state of each flat."""
        return zero.optimizer_state(self.engine, self.layout, self.optimizer)

    def tensors(self):
        """Each file's name with its whole tensors by name, on rank 0; one file in memory at a time. Collective."""
        gather, flats = self.layout.gather, self.flat_states()
        yield MASTERS, gather(self.layout.masters)
        yield OPTIMIZER, {f"{kind}.{name}": value for kind in self.optimizer.states
                          for name, value in gather([state[kind] for state in flats]).items()}
        for name, track in self.averages.tracks.items():
            yield average_file(name), gather(track.flats)
        if self.teacher:
            yield TEACHER, gather(self.teacher.flats)
        if self.buffers:
            yield OBJECTIVE, {name: value.detach().cpu().contiguous() for name, value in self.buffers.items()}


def save(run: RunDir, state: TrainingState, world: World, *, images_seen: int, steps: int) -> None:
    """Write one checkpoint. Collective.

    Raises:
        TrainingFailed: it could not be written, or on the disk it is not what it was in memory. Those before it stand.
    """
    if world.is_main:
        counts = {"images_seen": images_seen, "steps": steps, **state.optimizer_steps}
        try:
            _write(run, state.tensors(), counts)
        except OSError as error:
            raise TrainingFailed(f"the checkpoint at {images_seen:,} images could not be saved in {run.checkpoints}: {error}. "
                                 "Those before it stand") from error
    else:
        for _ in state.tensors():                                              # its share of what rank 0 collects
            pass
    dist.barrier()


def drop_outdated(run: RunDir, world: World, config: RunConfig, images_seen: int) -> None:
    """Drop all but the averages of old checkpoints: all but the last ``keep_checkpoints`` and the ones to keep for good. What a
    stop has saved where an undisturbed run saves nothing goes whole: a run that is often stopped would fill the disk.

    The last is the one at ``images_seen``: any that stand after it were damaged, and passed over.
    """
    keep, every, batch = config.resources.keep_checkpoints, config.resources.keep_every_images, config.train.global_batch
    saved = [path for path in list_checkpoints(run) if images_of(path) <= images_seen] if world.is_main else []
    for old in saved[:-keep]:
        if every and reached(images_of(old), every, batch):
            continue
        if not reached(images_of(old), config.train.checkpoint_every_images, batch):
            remove(old)
            continue
        for name in (MASTERS, OPTIMIZER, TEACHER, OBJECTIVE):
            (old / name).unlink(missing_ok=True)


def _write(run: RunDir, tensors, counts: dict[str, int]) -> None:
    sha256 = {}
    with new_folder(run, counts["images_seen"]) as folder:
        for name, values in tensors:
            sha256[name] = write_verified(folder / name, values)
            del values                                                         # before the next file's tensors are gathered
        write_json(folder / "state.json", stamped(STATE, {**counts, "sha256": sha256}))


def restore(run: RunDir, state: TrainingState, world: World, last_good_images: int | None = None) -> tuple[int, int]:
    """Put the newest whole checkpoint back, if there is one; returns (images seen, steps), zeros for a fresh start. Collective.

    A checkpoint that is damaged is passed over with a warning, and the one before it is used; so is one that has seen more than
    ``last_good_images``, and all that was made after these is removed.
    """
    found = [_newest_whole(run, state.files, last_good_images) if world.is_main else None]
    if world.is_main and last_good_images is not None:
        abandon(run, last_good_images, found[0])
    dist.broadcast_object_list(found, src=0)
    if found[0] is None:
        return 0, 0
    counts = json.loads((found[0] / "state.json").read_text())
    _load(state, found[0], counts.get("optimizer_steps", counts["steps"]))      # older checkpoints have no count of their own
    return counts["images_seen"], counts["steps"]


def abandon(run: RunDir, last_good_images: int, taken_up: Path | None) -> None:
    """Remove the checkpoints, scores and sample sheets after ``last_good_images``, before the run goes on from ``taken_up``, or
    anew. Otherwise a later start would go on from one of them, and the checkpoints to come would count as scored.

    Scores go first, then the newest checkpoint: after a kill in here the run goes on from the newest that is left.
    """
    newer = [path for path in list_checkpoints(run) if images_of(path) > last_good_images]
    scores = [line for line in read_lines(run.evals) if line["images_seen"] > last_good_images]
    keep_lines(run.evals, lambda line: line["images_seen"] <= last_good_images)
    for sheet in run.samples.glob("images-*.npz"):
        if images_of(sheet.with_suffix("")) > last_good_images:
            sheet.unlink()
    point_latest(run, taken_up)
    sweep(run)
    for checkpoint in reversed(newer):
        remove(checkpoint)
    run.set_status(RUNNING, images_seen=images_of(taken_up) if taken_up else 0)
    print(_words(last_good_images, taken_up, newer, len(scores)), flush=True)


def _words(last_good_images: int, taken_up: Path | None, newer: list[Path], scores: int) -> str:
    start = f"goes on from the checkpoint at {images_of(taken_up):,} images" if taken_up else \
        f"restarts from 0 images: there is no whole training state at or before {last_good_images:,} images"
    removed = [f"the checkpoint(s) at {' and '.join(f'{images_of(path):,}' for path in newer)} images"] if newer else []
    removed += [f"{scores} line(s) of evals.jsonl"] if scores else []
    return f"Training {start}; removed: {', '.join(removed) or 'nothing'}"


def _load(state: TrainingState, folder: Path, optimizer_steps: int) -> None:
    """Put a checkpoint's files back, one at a time."""
    layout, flats = state.layout, state.flat_states()
    for name, track in state.averages.tracks.items():
        layout.scatter(load_file(folder / average_file(name)), track.flats)
    if state.teacher:
        layout.scatter(load_file(folder / TEACHER), state.teacher.flats)
        state.teacher.refresh()
    if state.buffers:
        saved = load_file(folder / OBJECTIVE)
        for name, value in state.buffers.items():
            state.buffers[name] = saved[name].to(value.device)
    saved = load_file(folder / OPTIMIZER)
    for kind in state.optimizer.states:
        layout.scatter({name: saved[f"{kind}.{name}"] for name in layout.shapes}, [flat[kind] for flat in flats])
    for flat in flats if state.optimizer.counts_steps else ():
        flat["step"].fill_(optimizer_steps)
    zero.set_masters(state.engine, layout, load_file(folder / MASTERS))


def average_file(name: str) -> str:
    return f"{name}.safetensors"


def load_ema(checkpoint: Path, name: str = MAIN) -> dict[str, Tensor]:
    """An average's weights by parameter name, fp32."""
    return load_file(checkpoint / average_file(name))


def _newest_whole(run: RunDir, files: list[str], last_good_images: int | None) -> Path | None:
    for checkpoint in reversed(list_checkpoints(run)):
        if last_good_images is not None and images_of(checkpoint) > last_good_images:
            continue
        if not (checkpoint / MASTERS).exists() and not (checkpoint / OPTIMIZER).exists():
            continue                                                           # only its averages were to be kept
        problem = damage(checkpoint, files)
        if not problem:
            return checkpoint
        warnings.warn(f"checkpoint {checkpoint} is skipped: {problem}", stacklevel=2)
    return None
