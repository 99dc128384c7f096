"""Checkpoints that are whole or not there, and that know nothing of world size or ZeRO stage.

::

    checkpoints/images-000001280000/
      masters.safetensors    fp32 weights by parameter name
      optimizer.safetensors  AdamW's moments, ``exp_avg.<name>`` and ``exp_avg_sq.<name>``
      ema.safetensors        EMA weights by parameter name: all that sampling needs
      teacher.safetensors    the teacher's fp32 weights by parameter name, where there is a teacher
      objective.safetensors  the objective's buffers, where it has any
      state.json             images seen, steps, and the sha256 of each file
    checkpoints/latest       the newest name, moved only after that directory is whole and verified

Only safetensors and JSON are read: loading never unpickles anything.
"""

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ditscale.rundir import RunDir, write_atomically, write_json
from ditscale.training import zero
from ditscale.training.distributed import World
from ditscale.training.ema import ShardedEma
from ditscale.training.teacher import Teacher

MASTERS, OPTIMIZER, EMA = "masters.safetensors", "optimizer.safetensors", "ema.safetensors"
TEACHER, OBJECTIVE = "teacher.safetensors", "objective.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class TrainingState:
    """What a run needs back to go on as if it had never stopped."""

    engine: object
    ema: ShardedEma
    teacher: Teacher | None
    buffers: dict[str, Tensor]                                                 # the objective's own; entries are replaced

    @property
    def files(self) -> list[str]:
        """The files of one checkpoint of this run."""
        return [MASTERS, OPTIMIZER, EMA, *([TEACHER] if self.teacher else []), *([OBJECTIVE] if self.buffers else [])]


def save(run: RunDir, state: TrainingState, world: World, *, images_seen: int, steps: int, keep: int) -> None:
    """Write one checkpoint, then drop all but the EMA of all but the last ``keep``. Collective."""
    tensors = _gather(state)
    if world.is_main:
        _write(run, tensors, images_seen, steps)
        for old in list_checkpoints(run)[:-keep]:
            for name in tensors.keys() - {EMA}:
                (old / name).unlink(missing_ok=True)
    dist.barrier()


def _gather(state: TrainingState) -> dict[str, dict[str, Tensor]]:
    engine = state.engine
    adam = zero.optimizer_state(engine)
    tensors = {
        MASTERS: zero.gather(engine, zero.partitions(engine)),
        OPTIMIZER: {f"{moment}.{name}": value for moment in MOMENTS
                    for name, value in zero.gather(engine, [partition[moment] for partition in adam]).items()},
        EMA: zero.gather(engine, state.ema.flats),
    }
    if state.teacher:
        tensors[TEACHER] = zero.gather(engine, state.teacher.flats)
    if state.buffers:
        tensors[OBJECTIVE] = {name: value.detach().cpu().contiguous() for name, value in state.buffers.items()}
    return tensors


def _write(run: RunDir, tensors: dict, images_seen: int, steps: int) -> None:
    final = run.checkpoints / f"images-{images_seen:012d}"
    aside = run.checkpoints / f".{final.name}.{os.getpid()}"
    for stale in run.checkpoints.glob(".images-*"):                            # left by a process that was killed in here
        shutil.rmtree(stale)
    aside.mkdir(parents=True)
    for name, values in tensors.items():
        save_file(values, aside / name)
        with open(aside / name, "rb") as file:
            os.fsync(file.fileno())
    write_json(aside / "state.json", {"images_seen": images_seen, "steps": steps,
                                      "sha256": {name: file_sha256(aside / name) for name in tensors}})
    if final.exists():                                                         # the same point, written again after a fall-back
        shutil.rmtree(final)
    os.rename(aside, final)
    write_atomically(run.checkpoints / "latest", (final.name + "\n").encode())


def restore(run: RunDir, state: TrainingState, world: World) -> tuple[int, int]:
    """Put the newest whole checkpoint back, if there is one; returns (images seen, steps), zeros for a fresh start. Collective.

    A checkpoint that is damaged is passed over with a warning, and the one before it is used.
    """
    found = [_newest_whole(run, state.files) if world.is_main else None]
    dist.broadcast_object_list(found, src=0)
    if found[0] is None:
        return 0, 0
    counts = json.loads((found[0] / "state.json").read_text())
    tensors = {name: load_file(found[0] / name) for name in state.files}
    _scatter(state, tensors, counts["steps"])
    return counts["images_seen"], counts["steps"]


def _scatter(state: TrainingState, tensors: dict[str, dict[str, Tensor]], steps: int) -> None:
    engine, masters = state.engine, tensors[MASTERS]
    zero.scatter(engine, tensors[EMA], state.ema.flats)
    if state.teacher:
        zero.scatter(engine, tensors[TEACHER], state.teacher.flats)
        state.teacher.refresh()
    for name, value in state.buffers.items():
        state.buffers[name] = tensors[OBJECTIVE][name].to(value.device)
    adam = zero.optimizer_state(engine)
    for moment in MOMENTS:
        whole = {name: tensors[OPTIMIZER][f"{moment}.{name}"] for name in masters}
        zero.scatter(engine, whole, [partition[moment] for partition in adam])
    for partition in adam:
        partition["step"].fill_(steps)
    zero.set_masters(engine, masters)


def list_checkpoints(run: RunDir) -> list[Path]:
    """All checkpoint directories, oldest first."""
    return sorted(run.checkpoints.glob("images-*"))


def images_of(checkpoint: Path) -> int:
    """The images seen, from a checkpoint's name."""
    return int(checkpoint.name.removeprefix("images-"))


def load_ema(checkpoint: Path) -> dict[str, Tensor]:
    """EMA weights by parameter name, fp32."""
    return load_file(checkpoint / EMA)


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(file.read()).hexdigest()


def _newest_whole(run: RunDir, files: list[str]) -> Path | None:
    for checkpoint in reversed(list_checkpoints(run)):
        problem = _problem(checkpoint, files)
        if not problem:
            return checkpoint
        warnings.warn(f"checkpoint {checkpoint} is passed over: {problem}", stacklevel=2)
    return None


def _problem(checkpoint: Path, files: list[str]) -> str:
    """What is wrong with a checkpoint as a training state; empty where nothing is."""
    try:
        expected = json.loads((checkpoint / "state.json").read_text())["sha256"]
        for name in files:
            if file_sha256(checkpoint / name) != expected[name]:
                return f"{name} does not match its sha256"
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
