"""Hundreds of epochs, and hundreds of starts and stops: memory, file descriptors, threads and disk stay flat."""

import gc
import os
from pathlib import Path

import pytest

from ditscale.rundir import read_lines
from ditscale.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_repository")]

EPOCHS, STARTS, WARM = 200, 500, 100
IMAGES = 1437                                                                  # of the digits' training split
MIB = 2**20
SMALL = {"model.name": "DiT-atto/8", "train.precision": "fp32", "evaluation": None, "train.global_batch": 479,
         "train.checkpoint_every_images": 479, "resources.keep_checkpoints": 2, "resources.log_every_images": 479}


def held() -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"bytes": int(status["VmRSS"].split()[0]) * 1024, "descriptors": len(os.listdir("/proc/self/fd")), "threads": int(status["Threads"])}


def files_of(run):
    """Count and bytes of all but what is to grow: lines, and an average a checkpoint, which is kept for good with its hash."""
    grows = (run.metrics.name, run.log.name, "ema.safetensors", "state.json")
    found = [path for path in run.path.rglob("*") if path.is_file() and path.name not in grows and "tb" not in path.parts]
    return len(found), sum(path.stat().st_size for path in found)


def is_flat(before, after, mib):
    assert after["descriptors"] <= before["descriptors"] and after["threads"] <= before["threads"], (before, after)
    assert after["bytes"] - before["bytes"] < mib * MIB, (before, after)


def test_two_hundred_epochs_in_one_process(make_run, world):
    config, run = make_run(changes={**SMALL, "train.images": EPOCHS * IMAGES, "train.checkpoint_every_images": IMAGES,
                                    "objective": {"name": "discriminative", "patch_weight": 0.0, "mask_ratio": 0.0}})
    seen, steps = [], iter(range(1, 10**6))

    def look():
        if next(steps) % 3 == 0:
            seen.append((held(), files_of(run)))
        return False

    assert train(config, run, world, stop=look)
    assert len(seen) == EPOCHS and read_lines(run.metrics)[-1]["images_seen"] == EPOCHS * IMAGES
    is_flat(seen[EPOCHS // 4][0], seen[-1][0], mib=8)
    (count, size), (last_count, last_size) = seen[EPOCHS // 4][1], seen[-1][1]
    assert last_count == count and last_size < size + 4096


def test_five_hundred_starts_and_stops(make_run, world):
    """Each start trains one step, saves and stops. What a start leaves in the process may not add up."""
    config, run = make_run(changes={**SMALL, "train.images": (STARTS + 1) * 479})
    seen = []
    for start in range(1, STARTS + 1):
        assert not train(config, run, world, stop=lambda: True)
        seen.append((held(), files_of(run)) if start in (WARM, STARTS) or start % 50 == 0 else None)
    (warm, files), (last, last_files) = seen[WARM - 1], seen[-1]
    print(warm, last, files, last_files)
    assert read_lines(run.metrics)[-1]["images_seen"] == STARTS * 479
    is_flat(warm, last, mib=40)                                                # below 0.1 MiB a start
    assert last_files[0] == files[0] and last_files[1] < files[1] + 4096
    assert train(config, run, world)
