"""One part of what gpu.sh runs: `python benchmarks/gpu.py parity|resume|throughput|pictures --out FOLDER [--tiny] [--minutes 5]
[--cifar10 ARCHIVE]`.

    parity      every variant at ZeRO 1, 2, 3 in bf16 against a plain fp32 loop on the CPU, and the stages against each other
    resume      a run that is stopped and goes on against one that is not
    throughput  images/s, MFU and memory of `train()` by model, variant and compile
    pictures    a short run on CIFAR-10 (an archive that `ditscale data build` takes), or without one on made-up pictures like it

Each writes FOLDER/gpu_<part>.json, the same as its last line: what was measured, device, versions, date. What failed or found no
time is listed as such. The exit code is 1 where losses are not near, or a resumed run is not the same on a device that repeats.
"""

import argparse
import copy
import datetime
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from made_data import write_latents, write_pictures

from ditscale import randomness
from ditscale.config import RunConfig, resolve
from ditscale.data.loader import StreamLoader
from ditscale.data.manifest import read_manifest
from ditscale.data.prepare import make_prepare
from ditscale.environment import environment
from ditscale.objectives import BASELINE, VARIANTS
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.rundir import RunDir, read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints, load_file
from ditscale.training.distributed import World, join_world
from ditscale.training.loop import train

STAGES = (1, 2, 3)
BATCHES = {"DiT-S/2": 256, "DiT-B/2": 256, "DiT-L/2": 128, "DiT-XL/2": 96}       # they fit into 80 GB
STRATEGIES = Path(__file__).parents[1] / "ds_configs"


class Bench:
    """What every part needs: the ranks' world of one, a folder that goes away, and how large all is to be."""

    def __init__(self, options, world: World, folder: Path):
        self.tiny, self.world, self.folder, self.made = options.tiny, world, folder, 0
        self.ends = time.monotonic() + 60 * options.minutes

    def run(self, model: str, variant: str, *, steps: int, batch: int, precision: str = "bf16", stage: int = 1, log_steps: int = 1,
            lr: float = 3e-4, data: str = "latents", **resources) -> tuple[RunConfig, RunDir]:
        self.made += 1
        sizes = {"latents": (32, 4, 1000), "pictures": (32, 3, 10)}[data]
        config = resolve({
            "model": {"name": model}, "formulation": {"name": "edm"}, "objective": {"name": variant},
            "data": {"name": data, "path": str(self.folder / f"{data}.beton"),
                     **dict(zip(("resolution", "channels", "classes"), sizes, strict=True))},
            "train": {"images": steps * batch, "global_batch": batch, "precision": precision, "ema_decay": 0.99, "lr": lr,
                      "checkpoint_every_images": steps * batch},
            "resources": {"deepspeed": str(STRATEGIES / f"zero{stage}.json"), "log_every_images": log_steps * batch, **resources},
        }, "benchmark")
        run = RunDir(self.folder / f"run{self.made}")
        run.create({"run_id": run.run_id, "config": config.model_dump(mode="json")})
        return config, run


def parity(bench: Bench) -> list[dict]:
    """Losses of a few steps; the first has outputs of zero, so it is the later ones that count."""
    model, steps, batch = ("DiT-atto/4", 4, 8) if bench.tiny else ("DiT-S/4", 8, 32)
    rows = []
    for variant in VARIANTS:
        config, _ = bench.run(model, variant, steps=steps, batch=batch, lr=1e-3)
        expected, by_stage = plain_losses(config), {}
        for stage in STAGES:
            config, run = bench.run(model, variant, steps=steps, batch=batch, lr=1e-3, stage=stage)
            train(config, run, bench.world)
            by_stage[stage] = [loss_of(line) for line in read_lines(run.metrics)]
        for stage in STAGES:
            differences = [abs(a / b - 1) for a, b in zip(by_stage[stage], expected, strict=True)]
            rows.append({"model": model, "variant": variant, "stage": stage, "steps": steps, "losses": by_stage[stage],
                         "fp32_cpu_losses": expected, "largest_relative_difference": max(differences),
                         "same_as_stage_1": by_stage[stage] == by_stage[1], "near": max(differences) < 0.03})
    return rows


def plain_losses(config: RunConfig) -> list[float]:
    """The same run in a few lines of PyTorch, fp32 on the CPU."""
    objective, prepare, model = make_objective(config), make_prepare(config.data), build_model(config)
    streams = {**objective.streams, **prepare.streams}
    if objective.has_teacher:
        objective.teacher = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, weight_decay=config.train.weight_decay)
    losses, seen, batch = [], 0, config.train.global_batch
    for raw, labels, positions in StreamLoader(config.data.path, seed=config.seed, global_batch=batch, micro_batch=batch,
                                              end_images=config.train.images, backend="mmap", pick=prepare.pick):
        draws = randomness.draw(config.seed, positions, streams)
        loss = sum(objective(model, CleanBatch(prepare(raw, draws), labels, seen), draws).losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += batch
        if objective.has_teacher:
            with torch.no_grad():
                torch._foreach_lerp_(list(objective.teacher.parameters()), list(model.parameters()),
                                     1 - objective.teacher_momentum_at(seen))
        objective.after_step(lambda mean: mean)
        losses.append(loss.item())
    return losses


def resume(bench: Bench) -> list[dict]:
    """Stopped after three steps, then on to the end, against one that was not; and that one against itself, run again.

    Where a device's own kernels do not repeat, no resumed run can be the same.
    """
    model, steps, batch = ("DiT-atto/4", 6, 8) if bench.tiny else ("DiT-S/4", 20, 64)
    rows = []
    for stage in STAGES:
        runs = []
        for stops in (False, False, True):
            config, run = bench.run(model, "discriminative", steps=steps, batch=batch, stage=stage)
            calls = iter(range(1, 10**6))
            if stops:
                train(config, run, bench.world, stop=lambda: next(calls) >= 3)
            train(config, run, bench.world)
            runs.append(run)
        whole, again, parts = map(outcome, runs)
        repeated, resumed = farthest(whole, again), farthest(whole, parts)
        rows.append({"model": model, "variant": "discriminative", "stage": stage, "steps": steps,
                     "repeats": repeated == (0, 0), "same": resumed == (0, 0),
                     "largest_differences": dict(zip(("loss", "weight"), resumed)),
                     "largest_differences_of_a_repetition": dict(zip(("loss", "weight"), repeated))})
    return rows


def outcome(run: RunDir) -> tuple[list[float], dict]:
    """Losses, and the last masters."""
    return [loss_of(line) for line in read_lines(run.metrics)], load_file(list_checkpoints(run)[-1] / "masters.safetensors")


def farthest(first, second) -> tuple[float, float]:
    """The largest difference between losses, and between weights."""
    return (max(abs(a - b) for a, b in zip(first[0], second[0], strict=True)),
            max((first[1][name] - second[1][name]).abs().max().item() for name in first[1]))


def throughput(bench: Bench) -> list[dict]:
    """`train()` as a user runs it, at ZeRO-1 in bf16; the first log line of each case, with warm-up and compiling, is left out."""
    models = {"DiT-atto/4": 8} if bench.tiny else BATCHES
    log_steps = 2 if bench.tiny else 10
    rows = []
    for compiled in (False, True):
        for model, batch in models.items():
            for variant in VARIANTS if not (bench.tiny and compiled) else [BASELINE]:
                case = {"model": model, "variant": variant, "compile": compiled, "batch": batch}
                if time.monotonic() > bench.ends:
                    rows.append({**case, "left_out": "no time"})
                    continue
                config, run = bench.run(model, variant, steps=3 * log_steps, batch=batch, log_steps=log_steps, compile=compiled)
                rows.append({**case, **measured(config, run, bench.world)})
                print(rows[-1], flush=True)
    return rows


def measured(config: RunConfig, run: RunDir, world: World) -> dict:
    """The case's speed, or why it has none."""
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    torch._dynamo.reset()
    try:
        train(config, run, world)
    except torch.OutOfMemoryError as error:
        return {"failed": str(error).splitlines()[0]}
    finally:
        gc.collect()
        if world.device.type == "cuda":
            torch.cuda.empty_cache()
    lines = read_lines(run.metrics)[1:]
    last = lines[-1]
    return {name: last[name] for name in last if name in ("images_per_second", "mfu", "peak_memory_gib") or name.startswith("seconds")}


def pictures(bench: Bench) -> list[dict]:
    """Whether a model learns: the loss at the start and at the end."""
    model, steps, batch, log_steps = ("DiT-atto/4", 40, 16, 5) if bench.tiny else ("DiT-S/2", 1500, 256, 50)
    config, run = bench.run(model, "baseline", steps=steps, batch=batch, log_steps=log_steps, data="pictures", compile=not bench.tiny)
    started = time.monotonic()
    train(config, run, bench.world)
    losses = [loss_of(line) for line in read_lines(run.metrics)]
    return [{"data": read_manifest(config.data.path).source, "model": model, "steps": steps, "batch": batch,
             "seconds": round(time.monotonic() - started, 1), "first_loss": losses[0], "last_loss": losses[-1], "losses": losses}]


def loss_of(line: dict) -> float:
    return sum(value for name, value in line.items() if name.startswith("loss/"))


def main() -> None:
    parts = {part.__name__: part for part in (parity, resume, throughput, pictures)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=list(parts))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="the smallest model, a few steps: whether it all runs")
    parser.add_argument("--cifar10", type=Path, help="for pictures")
    parser.add_argument("--minutes", type=float, default=5.0, help="no case of throughput is begun after so long")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    world, started = join_world(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        write_latents(Path(folder) / "latents.beton")
        if options.part == "pictures" and options.cifar10:
            from ditscale.data.build import build_images  # needs pillow, which the other parts can do without
            print(build_images(options.cifar10, Path(folder) / "pictures.beton", size=32, split="train"), flush=True)
        elif options.part == "pictures":
            write_pictures(Path(folder) / "pictures.beton", samples=2000 if options.tiny else 50_000)
        cases = parts[options.part](Bench(options, world, Path(folder)))
    result = {"benchmark": f"gpu_{options.part}", "tiny": options.tiny, "date": datetime.date.today().isoformat(),
              "seconds": round(time.monotonic() - started, 1), "environment": environment(world.device), "cases": cases}
    (options.out / f"gpu_{options.part}.json").write_text(json.dumps(result, indent=1) + "\n")
    for case in cases:
        print({name: value for name, value in case.items() if not name.endswith("losses")}, flush=True)
    print(json.dumps(result), flush=True)
    if not all(case.get("near", True) and (case.get("same", True) or not case["repeats"]) for case in cases):
        sys.exit("error: not what it should be")


if __name__ == "__main__":
    main()
