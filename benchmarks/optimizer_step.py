"""What a step of `train()` costs with Muon, against AdamW, next to the share of the FLOPs that is Muon's.

    python benchmarks/optimizer_step.py [--model DiT-S/8] [--batch 64] [--steps 6] [--rounds 3]

Short runs of the real loop at ZeRO-1 on one rank take turns, one with each optimizer. A step's time is that of the processor between two
calls of the hook after each step; the first step of a run does not count. The last line is one JSON object.
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

from ditscale.config import RunConfig, resolve
from ditscale.cost.runs import optimizer_flops, run_card
from ditscale.rundir import RunDir
from ditscale.training.distributed import join_world
from ditscale.training.loop import train

CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="DiT-S/8")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6, help="in a run, besides the first")
    parser.add_argument("--rounds", type=int, default=3)
    options = parse(parser, model="DiT-atto/4", batch=8, steps=2, rounds=1)
    world = join_world()
    seconds: dict[str, list[float]] = {"adamw": [], "muon": []}
    with tempfile.TemporaryDirectory() as folder:
        write_latents(Path(folder) / "latents.beton")
        for turn in range(options.rounds):
            for name, found in seconds.items():
                config, run = make_run(Path(folder), f"{name}-{turn}", name, options)
                times: list[float] = []
                train(config, run, world, stop=lambda: times.append(time.process_time()))
                found += [after - before for before, after in zip(times, times[1:])]
                share = optimizer_flops(config) / config.train.global_batch / run_card(config).train_flops_per_image
    adamw, muon = (statistics.median(found) for found in seconds.values())
    result = {"benchmark": "optimizer_step", "tiny": options.tiny, "torch": torch.__version__, "threads": torch.get_num_threads(),
              "model": options.model, "batch": options.batch, "steps": len(seconds["muon"]), "adamw_step_seconds": round(adamw, 4),
              "muon_step_seconds": round(muon, 4), "ratio": round(muon / adamw, 4), "flop_ratio": round(1 + share, 4)}
    print(f"{muon / adamw:.3f} times AdamW's step; {1 + share:.3f} times its FLOPs")
    print(json.dumps(result))


def make_run(folder: Path, name: str, optimizer: str, options) -> tuple[RunConfig, RunDir]:
    images = options.batch * (1 + options.steps)
    config = resolve({
        "model": {"name": options.model}, "formulation": {"name": "flow"}, "objective": {"name": "baseline"},
        "data": {"name": "latents", "path": str(folder / "latents.beton"), "resolution": 32, "channels": 4, "classes": CLASSES},
        "train": {"images": images, "global_batch": options.batch, "precision": "fp32", "checkpoint_every_images": images,
                  "optimizer": {"name": optimizer}},
        "resources": {"deepspeed": str(Path(__file__).parents[1] / "ds_configs/zero1.json"), "log_every_images": images},
    }, "benchmark")
    run = RunDir(folder / name)
    run.create({"run_id": name, "config": config.model_dump(mode="json")})
    return config, run


if __name__ == "__main__":
    main()
