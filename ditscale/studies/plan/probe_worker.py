"""One rank of a probe, started by the ``deepspeed`` launcher: ``deepspeed --module ditscale.studies.plan.probe_worker RUN_DIR``.

It times ``train()`` itself, including loader, randomness and telemetry. After the last timed step an
exception ends it before it would write a checkpoint. Rank 0 writes RUN_DIR/probe.json.
"""

import contextlib
import gc
import statistics
import sys
import time
from pathlib import Path

import torch

from ditscale.config import RunConfig, resolve
from ditscale.device import forget_peak_memory, is_accelerator, peak_memory, synchronize
from ditscale.errors import UserError
from ditscale.ranks import World
from ditscale.rundir import RunDir, write_json
from ditscale.studies.plan.probe import RESULT
from ditscale.training import heap
from ditscale.training.distributed import join_world
from ditscale.training.fit import fit_micro_batch
from ditscale.training.loop import train

WARM_UP_STEPS, STEPS, BLOCK = 3, 20, 5                                         # the median block of five steps is used


class _Enough(Exception):
    """All timed steps are done."""


class _Clock:
    """The stop hook of ``train()``: times each block of steps, then ends the training."""

    def __init__(self, device: torch.device, steps: int):
        self.device, self.left, self.calls = device, WARM_UP_STEPS + steps, 0
        self.block_seconds: list[float] = []
        self.since = 0.0                                                       # when the last block ended

    def __call__(self) -> bool:
        self.calls += 1
        counted = self.calls - WARM_UP_STEPS
        if counted >= 0 and counted % BLOCK == 0:
            synchronize(self.device)
            now = time.perf_counter()
            if counted:
                self.block_seconds.append((now - self.since) / BLOCK)
            self.since = now
        if self.calls == self.left:
            raise _Enough
        return False


def main(run_path: str) -> int:
    run = RunDir(run_path)
    try:
        config = resolve(run.read_record()["config"], str(run.record))
        world = join_world()
        config = fit_micro_batch(config, world)
        memory_bytes = _peak_memory(config, run, world)
        there_are = config.train.images // config.train.global_batch - WARM_UP_STEPS
        clock = _train(config, RunDir(run.path / "run"), world, min(STEPS, there_are))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    if world.is_main:
        write_json(run.path / RESULT, {"step_seconds": statistics.median(clock.block_seconds), "steps": len(clock.block_seconds) * BLOCK,
                                       "memory_bytes": memory_bytes, "micro_batch": config.micro_batch})
    return 0


def _smallest(config: RunConfig) -> RunConfig:
    """The same run with the smallest model, if its variant's options allow that; otherwise unchanged."""
    values, patch = config.model_dump(mode="json"), config.model.name.rpartition("/")[2]
    values["model"]["name"] = f"DiT-atto/{patch}"
    try:
        return resolve(values, "warm-up")
    except UserError:
        return config


def _train(config: RunConfig, run: RunDir, world: World, steps: int) -> _Clock:
    if world.is_main:
        run.create({"run_id": run.run_id, "config": config.model_dump(mode="json")})
    clock = _Clock(world.device, steps)
    with contextlib.suppress(_Enough):
        train(config, run, world, stop=clock)
    return clock


def _peak_memory(config: RunConfig, run: RunDir, world: World) -> int:
    """Peak bytes of tensors during a step: of the accelerator, or without one, the growth of this process.

    On a CPU, freed memory is returned to the kernel at once, so that memory cached by the heap does not count. That
    costs time, so steps are timed afterwards, with the usual heap settings.
    """
    on_cpu = not is_accelerator(world.device)
    if on_cpu:
        heap.give_back_freed()
    _train(_smallest(config), RunDir(run.path / "warm"), world, BLOCK)         # load everything that is loaded only once
    gc.collect()
    if not on_cpu:
        forget_peak_memory(world.device)
        _train(config, RunDir(run.path / "memory"), world, BLOCK)
        return peak_memory(world.device)
    heap.give_back_freed()
    Path("/proc/self/clear_refs").write_text("5")                              # Linux: forget the peak so far
    before = _status_bytes("VmRSS")
    _train(config, RunDir(run.path / "memory"), world, BLOCK)
    heap.keep_freed()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main(*(word for word in sys.argv[1:] if not word.startswith("--local_rank"))))
