"""What a step of `train()` costs beyond a plain PyTorch loop of the same model. One run, medians, a ratio.

    python benchmarks/train_step.py [--model DiT-S/8] [--batch 64] [--rounds 40] [--precision fp32]

`train()` is the real one at ZeRO-1 on one rank: loader, counter-based noise, telemetry, guard, average, a log line every 32 steps.
The plain loop has one batch of latents that stays on the device, torch's own noise, AdamW (fused) and an average by one foreach
call; for bf16 it keeps fp32 masters as ZeRO does. Both are eager. They take turns, one round each, in the hook that `train()` calls
after each step, so that a noisy machine disturbs both alike. The last line is one JSON object.
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
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.rundir import RunDir, read_lines
from ditscale.training.distributed import join_world
from ditscale.training.loop import train

CLASSES, SHAPE = 1000, (4, 32, 32)
WARM_UP = 2                                                                    # rounds that do not count
STEPS_A_LINE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="DiT-S/8")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=16 if torch.cuda.is_available() else 1, help="in a round")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    options = parse(parser, model="DiT-atto/4", batch=8, rounds=3, steps=1)
    world = join_world()
    with tempfile.TemporaryDirectory() as folder:
        config, run = make_run(Path(folder), options)
        turns = Turns(PlainLoop(config, world.device), options)
        train(config, run, world, stop=turns)
        parts = seconds_by_part(read_lines(run.metrics), options)
    ours, plain = (statistics.median(seconds[WARM_UP:]) / options.steps for seconds in (turns.ours, turns.plain))
    result = {"benchmark": "train_step", "tiny": options.tiny, "torch": torch.__version__, "device": device_name(world.device),
              "threads": torch.get_num_threads(),
              "model": options.model, "batch": options.batch, "precision": options.precision, "deepspeed": "zero1",
              "rounds": len(turns.plain) - WARM_UP, "steps_a_round": options.steps, "train_step_seconds": round(ours, 5),
              "plain_step_seconds": round(plain, 5), "ratio": round(ours / plain, 4),
              "mean_ratio": round(sum(turns.ours[WARM_UP:]) / sum(turns.plain[WARM_UP:]), 4), "train_seconds_by_part": parts}
    print(f"{ours / plain - 1:+.1%} (train {ours * 1000:.1f} ms, plain {plain * 1000:.1f} ms a step)")
    print(json.dumps(result))


def make_run(folder: Path, options) -> tuple[RunConfig, RunDir]:
    """A run on random latents, long enough for all rounds."""
    write_latents(folder / "latents.beton")
    steps = (options.rounds + WARM_UP) * options.steps
    config = resolve({
        "model": {"name": options.model}, "formulation": {"name": "ddpm"}, "objective": {"name": "baseline"},
        "data": {"name": "latents", "path": str(folder / "latents.beton"), "resolution": 32, "channels": 4, "classes": CLASSES},
        "train": {"images": steps * options.batch, "global_batch": options.batch, "precision": options.precision,
                  "checkpoint_every_images": steps * options.batch},
        "resources": {"deepspeed": str(Path(__file__).parents[1] / "ds_configs/zero1.json"),
                      "log_every_images": STEPS_A_LINE * options.batch, "compile": getattr(options, "compile", False)},
    }, "benchmark")
    run = RunDir(folder / "run")
    run.create({"run_id": "run", "config": config.model_dump(mode="json")})
    return config, run


class PlainLoop:
    """A step as one would write it without us."""

    def __init__(self, config: RunConfig, device: torch.device):
        self.objective, model = make_objective(config), build_model(config).to(device)
        self.masters = [p for p in model.parameters() if p.requires_grad]
        self.forward_weights = self.masters
        if config.train.precision == "bf16":
            self.masters = [p.detach().clone() for p in self.masters]
            self.forward_weights = [p for p in model.to(torch.bfloat16).parameters() if p.requires_grad]
        self.model, self.decay = model.train(), config.train.ema_decay
        self.optimizer = torch.optim.AdamW(self.masters, lr=config.train.lr, weight_decay=0.0, fused=True)
        self.averages = [p.detach().clone() for p in self.masters]
        count = config.train.global_batch
        self.batch = CleanBatch(torch.randn(count, *SHAPE, device=device), torch.randint(CLASSES, (count,), device=device))

    def step(self) -> None:
        images = self.batch.images
        draws = {"noise": torch.randn_like(images), **{name: torch.rand(len(images), 1, device=images.device)
                                                      for name in ("noise level", "label drop")}}
        loss = sum(self.objective(self.model, self.batch, draws).losses.values())
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        if self.masters is not self.forward_weights:
            for master, p in zip(self.masters, self.forward_weights, strict=True):
                master.grad = p.grad.float()
        self.optimizer.step()
        with torch.no_grad():
            if self.masters is not self.forward_weights:
                torch._foreach_copy_(self.forward_weights, self.masters)
            torch._foreach_lerp_(self.averages, self.masters, 1 - self.decay)


class Turns:
    """The stop hook of `train()`: after each of its rounds it takes the time, and lets the plain loop have its round."""

    def __init__(self, plain_loop: PlainLoop, options):
        self.plain_loop, self.steps, self.calls = plain_loop, options.steps, 0
        self.ours, self.plain, self.since = [], [], time.perf_counter()

    def __call__(self) -> bool:
        self.calls += 1
        if self.calls % self.steps == 0:
            self.ours.append(self._elapsed())
            for _ in range(self.steps):
                self.plain_loop.step()
            self.plain.append(self._elapsed())
        return False

    def _elapsed(self) -> float:
        """Seconds since the last call, the device's queue included."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        before, self.since = self.since, time.perf_counter()
        return self.since - before


def seconds_by_part(lines: list[dict], options) -> dict[str, float]:
    """What `train()` itself says of a step, without the first line if there are more."""
    before = lines[0]["images_seen"] if len(lines) > 1 else 0
    lines = lines[1:] or lines
    steps = (lines[-1]["images_seen"] - before) / options.batch
    return {part.removeprefix("seconds/"): round(sum(line[part] for line in lines) / steps, 5)
            for part in lines[0] if part.startswith("seconds/")}


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    main()
