"""Long runs and many starts: memory, threads, open files and the disk stay what they were once warm.

Measured on two shared cores: 200 epochs in 49 s, 500 starts and stops in 77 s, 6 of a process in 27 s.
"""

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ditscale.data.beton import BetonFile
from ditscale.rundir import PREEMPTED, read_lines
from ditscale.training.checkpoint.checkpoint import images_of, list_checkpoints
from ditscale.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_repository")]

EPOCHS, STARTS, PROCESSES = 200, 500, 6
BATCH = 64
JOINED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")    # by other tests, in this process


@dataclass(frozen=True)
class Held:
    """What this process and a run directory hold now."""

    resident_mib: float
    descriptors: int
    threads: int
    state_bytes: int                                                           # checkpoints, and what describes the run
    log_bytes: int                                                             # what grows by a line a log interval
    files: int


def held_by(run):
    gc.collect()                                                               # cycles wait for it, by the hundred thousand
    files = [path for path in run.path.rglob("*") if path.is_file()]
    logs = sum(path.stat().st_size for path in files if run.tensorboard in path.parents or path.suffix == ".jsonl")
    return Held(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
                len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")),
                sum(path.stat().st_size for path in files) - logs, logs, len(files))


def show(found):
    for at, now in found.items():
        print(f"{at:>6}: {now.resident_mib:,.0f} MiB, {now.descriptors} descriptors, {now.threads} threads, "
              f"{now.state_bytes:,} bytes and {now.log_bytes:,} of logs in {now.files} files")


def test_200_epochs_in_one_process(make_run, world, digits):
    """With FFCV's loader where there is one: it ends a thread and starts one every 4096 images, so one more or less is running.

    glibc keeps what is freed (heap.py), so a resident set that does not grow in 180 epochs is a heap that does not: 1 MiB was
    measured, 8 are allowed. A step that kept its 64 images as fp32 would add 64 MiB, a step that kept 2 KB would add 8.
    """
    images = BetonFile(digits / "train.beton").num_samples
    steps = EPOCHS * images // BATCH
    config, run = make_run(changes={"evaluation": None, "resources.loader": "auto", "resources.log_every_images": images,
                                    "train.images": steps * BATCH, "train.checkpoint_every_images": 20 * images})
    found, calls = {}, iter(range(1, steps + 1))

    def look() -> bool:
        step = next(calls)
        if step % (steps // 20) == 0:
            found[step * BATCH // images] = held_by(run)
        return False

    assert train(config, run, world, stop=look)
    show(found)
    first, *later = (now for epoch, now in found.items() if epoch >= 19)
    assert len(later) == 18
    assert max(now.resident_mib for now in later) < first.resident_mib + 8
    assert {now.descriptors for now in later} == {first.descriptors} and abs(later[-1].threads - first.threads) <= 1
    assert len(read_lines(run.metrics)) == EPOCHS                               # a checkpoint's line is a log interval's
    saved = list_checkpoints(run)
    assert len(saved) == EPOCHS // 20 and [path for path in saved if (path / "masters.safetensors").exists()] == saved[-2:]
    averages = sum((path / "ema.safetensors").stat().st_size for path in saved)
    states = 2 * 3.1 * averages / len(saved)                                    # masters and moments of two
    assert held_by(run).state_bytes < averages + states + 20_000


def test_500_starts_and_stops_in_one_process(make_run, world):
    """Each goes on from the checkpoint of the one before, takes one step and saves; every tenth is at stage 3.

    With the mmap loader: numba keeps the code that it compiles each time FFCV opens a file, 3 MB and a second a start, and a
    process of ditscale's opens one. Resident memory may grow by 48 MiB, 110 KB a start: 22 to 28 were measured, most of it what
    safetensors 0.8.0 loses, 56 bytes each time it reads a tensor of a mapped file. An engine that is kept takes 4 MB at stage 3.
    """
    settings = {"evaluation": None, "objective": {"name": "discriminative"}, "train.ema_decays": [0.5],
                "train.images": 2 * STARTS * BATCH, "train.checkpoint_every_images": 100 * BATCH}
    found = {}
    for start in range(1, STARTS + 1):
        config, run = make_run(changes={**settings, "resources.deepspeed": f"ds_configs/zero{1 if start % 10 else 3}.json"})
        assert not train(config, run, world, stop=lambda: True)
        if start % 50 == 0:
            found[start] = held_by(run)
    show(found)
    assert [line["images_seen"] for line in read_lines(run.metrics)] == [BATCH * step for step in range(1, STARTS + 1)]
    first, *later = found.values()
    assert max(now.resident_mib for now in later) < first.resident_mib + 48
    assert {(now.descriptors, now.threads) for now in found.values()} == {(first.descriptors, first.threads)}
    saved = [images_of(path) // BATCH for path in list_checkpoints(run)]
    assert saved == [100, 200, 300, 400, 499, 500]                              # what an undisturbed run has, and two to go on from
    averages = sum(path.stat().st_size for path in list_checkpoints(run)[0].glob("*.safetensors"))
    assert later[-1].state_bytes < first.state_bytes + 4 * (averages + 2000)
    assert later[-1].log_bytes < STARTS * 4096                                  # a line and a file of TensorBoard's events each
    assert later[-1].files < STARTS + 60


def test_starts_and_stops_of_processes_leave_nothing_behind(make_run, tmp_path):
    """Neither in the run directory nor in the folder for what is temporary."""
    _, run = make_run(changes={"evaluation": None, "train.images": 10**6 * BATCH, "train.checkpoint_every_images": 10**6 * BATCH})
    folder = tmp_path / "tmp"
    folder.mkdir()
    mine, left = {name: value for name, value in os.environ.items() if name not in JOINED}, []
    for _ in range(PROCESSES):
        seen = len(read_lines(run.metrics))
        with open(run.log, "a") as log:
            worker = subprocess.Popen([sys.executable, "-m", "ditscale.studies.launch.worker", str(run.path)], stdout=log,
                                      stderr=log, env={**mine, "DS_ACCELERATOR": "cpu", "TMPDIR": str(folder)})
        ends = time.monotonic() + 200
        while len(read_lines(run.metrics)) <= seen:
            assert worker.poll() is None and time.monotonic() < ends, run.log.read_text()[-2000:]
            time.sleep(0.05)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(120) == 75 and run.status()["state"] == PREEMPTED
        left.append([path.name for path in run.path.rglob("*") if run.tensorboard not in path.parents])
    of_one = len(list(list_checkpoints(run)[-1].iterdir())) + 1
    assert [len(names) for names in left] == [len(left[0]), *[len(left[0]) + of_one] * (PROCESSES - 1)]  # one checkpoint, then two
    assert len(list(run.tensorboard.iterdir())) == PROCESSES and not list(folder.iterdir())
