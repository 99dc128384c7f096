"""Checkpoints that are complete or absent, independent of world size and ZeRO stage.

::

    checkpoints/images-000001280000/
      masters.safetensors    fp32 weights by parameter name
      optimizer.safetensors  the optimizer's state, as ``exp_avg.<name>``, ``exp_avg_sq.<name>``, ``momentum_buffer.<name>``
      ema*.safetensors       averaged weights by parameter name, one file per average: all that sampling needs
      teacher.safetensors    the teacher's fp32 weights by parameter name, if there is a teacher
      objective.safetensors  the objective's buffers, if it has any
      state.json             images seen, steps, the optimizer's steps, and the sha256 of each file
    checkpoints/latest       the newest name, updated only after its directory is complete and verified (folders.py, tensorfile.py)

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

from ditscale.errors import TrainingFailed, count
from ditscale.formats import STATE, stamped
from ditscale.ranks import World
from ditscale.rundir import RUNNING, RunDir, keep_lines, read_lines, write_json
from ditscale.tensorfile import write_verified
from ditscale.training.checkpoint.folders import (
    MASTERS,
    OBJECTIVE,
    OPTIMIZER,
    TEACHER,
    has_state,
    images_of,
    list_checkpoints,
    new_folder,
    point_latest,
    remove,
    sweep,
)
from ditscale.training.checkpoint.whole import damage
from ditscale.training.ema.ema import Averages, Teacher
from ditscale.training.ema.profiles import MAIN
from ditscale.training.optimizers import Optimizer
from ditscale.training.zero import zero
from ditscale.training.zero.layout import Layout


@dataclass
class TrainingState:
    """The state that a run restores to continue as if it had never stopped."""

    engine: Any                                                                # DeepSpeed's
    optimizer: Optimizer
    layout: Layout
    averages: Averages
    teacher: Teacher | None
    buffers: dict[str, Tensor]                                                 # of the objective; entries are replaced

    @property
    def files(self) -> list[str]:
        """The files of one checkpoint of this run."""
        return [MASTERS, OPTIMIZER, *map(average_file, self.averages.tracks), *([TEACHER] if self.teacher else []),
                *([OBJECTIVE] if self.buffers else [])]

    @property
    def optimizer_steps(self) -> dict[str, int]:
        """The optimizer's step count (for bias correction), if it has one; it excludes skipped steps."""
        counts = [flat["step"] for flat in self.flat_states() if "step" in flat]
        return {"optimizer_steps": int(counts[0].item())} if counts else {}

    def flat_states(self) -> list[dict]:
        """The optimizer state of each flat."""
        return zero.optimizer_state(self.engine, self.layout, self.optimizer)

    def tensors(self):
        """Each file's name with its full tensors by name, on rank 0; one file in memory at a time. Collective."""
        gather, flats = self.layout.gather, self.flat_states()
        yield MASTERS, gather(self.layout.masters)
        yield OPTIMIZER, {f"{kind}.{name}": value for kind in self.optimizer.states
                          for name, value in gather([state.get(kind) for state in flats]).items()}
        for name, track in self.averages.tracks.items():
            yield average_file(name), gather(track.flats)
        if self.teacher:
            yield TEACHER, gather(self.teacher.flats)
        if self.buffers:
            yield OBJECTIVE, {name: value.detach().cpu().contiguous() for name, value in self.buffers.items()}


def save(run: RunDir, state: TrainingState, world: World, *, images_seen: int, steps: int) -> None:
    """Writes one checkpoint. Collective.

    Raises:
        TrainingFailed: it could not be written, or differs from memory when read back. Earlier checkpoints are kept.
    """
    if world.is_main:
        counts = {"images_seen": images_seen, "steps": steps, **state.optimizer_steps}
        try:
            _write(run, state.tensors(), counts)
        except OSError as error:
            raise TrainingFailed(f"the checkpoint at {images_seen:,} images could not be saved in {run.checkpoints}: {error}. "
                                 "Earlier checkpoints are kept") from error
    else:
        for _ in state.tensors():                                              # takes part in rank 0's gathering
            pass
    dist.barrier()


def _write(run: RunDir, tensors, counts: dict[str, int]) -> None:
    sha256 = {}
    with new_folder(run, counts["images_seen"]) as folder:
        for name, values in tensors:
            sha256[name] = write_verified(folder / name, values)
            del values                                                         # free memory before the next file's tensors are gathered
        write_json(folder / "state.json", stamped(STATE, {**counts, "sha256": sha256}))


def restore(run: RunDir, state: TrainingState, world: World, last_good_images: int | None = None) -> tuple[int, int]:
    """Restores the newest undamaged checkpoint, if there is one; returns (images seen, steps), zeros for a fresh start. Collective.

    A damaged checkpoint is skipped with a warning, and the one before it is used. One that has seen more than
    ``last_good_images`` is also skipped, and everything after these images is removed.
    """
    found = [_newest_whole(run, state.files, last_good_images) if world.is_main else None]
    if world.is_main and last_good_images is not None:
        abandon(run, last_good_images, found[0])
    dist.broadcast_object_list(found, src=0)
    if found[0] is None:
        return 0, 0
    counts = json.loads((found[0] / "state.json").read_text())
    _load(state, found[0], counts.get("optimizer_steps", counts["steps"]))      # older checkpoints have no separate count
    return counts["images_seen"], counts["steps"]


def abandon(run: RunDir, last_good_images: int, taken_up: Path | None) -> None:
    """Removes the checkpoints, scores and sample sheets after ``last_good_images``, before the run continues from ``taken_up`` or
    restarts. Otherwise a later start would continue from one of them, and new checkpoints would count as already scored.

    Scores are removed first, then the newest checkpoint: if killed here, the run continues from the newest that is left.
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
    start = f"continues from the checkpoint at {images_of(taken_up):,} images" if taken_up else \
        f"restarts from 0 images: there is no complete training state at or before {last_good_images:,} images"
    removed = [f"the checkpoint{'s' * (len(newer) > 1)} at {' and '.join(f'{images_of(path):,}' for path in newer)} images"] if newer else []
    removed += [f"{count(scores, 'line')} of evals.jsonl"] if scores else []
    return f"Training {start}; removed: {', '.join(removed) or 'nothing'}"


def _load(state: TrainingState, folder: Path, optimizer_steps: int) -> None:
    """Restores a checkpoint's files, one at a time."""
    layout, flats = state.layout, state.flat_states()
    for name, track in state.averages.tracks.items():
        layout.scatter(load_file(folder / average_file(name)), track.flats)
    if state.teacher:
        layout.scatter(load_file(folder / TEACHER), state.teacher.flats)
        state.teacher.refresh()
    if state.buffers:
        saved = load_file(folder / OBJECTIVE)
        for name, value in state.buffers.items():
            older = name.replace("center_", "centre_")                         # as versions up to 0.2.0 wrote it
            state.buffers[name] = saved[name if name in saved else older].to(value.device)
    saved = load_file(folder / OPTIMIZER)
    for kind in state.optimizer.states:
        whole = {name.removeprefix(f"{kind}."): value for name, value in saved.items() if name.startswith(f"{kind}.")}
        layout.scatter(whole, [flat.get(kind) for flat in flats])
    for flat in flats:
        if "step" in flat:
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
        if not has_state(checkpoint):
            continue                                                           # only its averages were kept
        problem = damage(checkpoint, files)
        if not problem:
            return checkpoint
        warnings.warn(f"checkpoint {checkpoint} is skipped: {problem}", stacklevel=2)
    return None
