"""What measuring the critical batch size adds to a step of `train()`. One run, medians of processor seconds, a share.

    python benchmarks/noise_scale.py [--model DiT-S/4] [--batch 16] [--micro-batch 8] [--steps 60] [--stage 1]

Every second step is measured, so that a noisy machine disturbs both kinds alike; a run measures every eighth. The last line is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from made_data import write_latents
from tiny import parse

from ditscale.config import resolve
from ditscale.rundir import RunDir
from ditscale.training import noise_scale
from ditscale.training.distributed import join_world
from ditscale.training.loop import train

WARM_UP = 4                                                                    # steps that do not count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="DiT-S/4")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--stage", type=int, default=1, choices=[0, 1, 2, 3])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    options = parse(parser, model="DiT-atto/4", batch=8, micro_batch=4, steps=4)
    every, noise_scale.EVERY = noise_scale.EVERY, 2
    world, ends = join_world(), []
    clock = time.process_time if world.device.type == "cpu" else time.perf_counter

    def stop() -> bool:
        if world.device.type != "cpu":
            torch.cuda.synchronize()
        ends.append(clock())
        return False
    with tempfile.TemporaryDirectory() as folder:
        train(*make_run(Path(folder), options), world, stop=stop)
    seconds = [end - before for before, end in zip(ends, ends[1:])][WARM_UP:-1]  # the first is the second step; the last one saves
    plain, measured = (statistics.median(seconds[first::2]) for first in (0, 1))
    result = {"benchmark": "noise_scale", "tiny": options.tiny, "torch": torch.__version__, "device": world.device.type, "threads": torch.get_num_threads(),
              "model": options.model, "batch": options.batch, "micro_batch": options.micro_batch, "stage": options.stage, "precision": options.precision,
              "steps": len(seconds), "step_seconds": round(plain, 5), "measured_step_seconds": round(measured, 5),
              "added_to_a_measured_step": round(measured / plain - 1, 5), "added_per_step": round((measured / plain - 1) / every, 5)}
    print(f"{result['added_per_step']:+.3%} a step")
    print(json.dumps(result))


def make_run(folder: Path, options):
    """A run on random latents, of so many steps."""
    write_latents(folder / "latents.beton")
    steps = WARM_UP + options.steps
    config = resolve({
        "model": {"name": options.model}, "formulation": {"name": "flow"}, "objective": {"name": "baseline"},
        "data": {"name": "latents", "path": str(folder / "latents.beton"), "resolution": 32, "channels": 4, "classes": 1000},
        "train": {"images": steps * options.batch, "global_batch": options.batch, "precision": options.precision,
                  "checkpoint_every_images": steps * options.batch},
        "resources": {"deepspeed": str(Path(__file__).parents[1] / f"ds_configs/zero{options.stage}.json"), "micro_batch": options.micro_batch,
                      "log_every_images": steps * options.batch},
    }, "benchmark")
    run = RunDir(folder / "run")
    run.create({"run_id": "run", "config": config.model_dump(mode="json")})
    return config, run


if __name__ == "__main__":
    main()
