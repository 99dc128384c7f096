"""Step time of each training variant against the baseline's, beside what the cost model says. One run, ratios.

    python benchmarks/variants.py [--models DiT-B/4 DiT-L/4] [--variants tread sprint] [--images 8] [--seconds 60] [--block adaln_zero]

A step is what the loop calls: noise, the variant's passes (the teacher's too), loss and backward, at 256-pixel latents
(32 x 32 x 4), without the optimizer. The variants take turns, so that a noisy machine disturbs all alike; medians are compared, on a CPU of processor
seconds, which other processes disturb less.
The last line is one JSON object: ``time_ratio`` and ``macs_ratio`` to the baseline, and the one over the other.
"""

import argparse
import copy
import json
import statistics
import time

import torch
from tiny import parse

from ditscale import randomness
from ditscale.config import RunConfig, resolve
from ditscale.cost.runs import run_card
from ditscale.objectives import BASELINE, VARIANTS
from ditscale.objectives.auxiliary import AUXILIARY
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch

LOSSES = [name for name in AUXILIARY if name != "repa"]                        # which needs an encoder, or stored features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["DiT-B/4", "DiT-L/4"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=[*VARIANTS, *LOSSES],
                        help="or an auxiliary loss with the baseline, which is always among them")
    parser.add_argument("--images", type=int, default=8, help="in a step")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each model")
    parser.add_argument("--block", default="adaln_zero")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parse(parser, models=["DiT-atto/4"], images=2, seconds=0.0)
    results = {"benchmark": "variants", "tiny": options.tiny, "torch": torch.__version__, "device": options.device, "threads": torch.get_num_threads(),
               "precision": options.precision, "images": options.images, "block": options.block, "cases": []}
    for model in options.models:
        for case in measure(model, options):
            results["cases"].append(case)
            print(case, flush=True)
    print(json.dumps(results))


def measure(model: str, options) -> list[dict]:
    """A row a variant."""
    configs = {variant: run_config(model, variant, options) for variant in dict.fromkeys((BASELINE, *options.variants))}
    medians = take_turns({variant: make_step(config, options) for variant, config in configs.items()}, options)
    flops = {variant: run_card(config).train_flops_per_image for variant, config in configs.items()}
    rows = []
    for variant in configs:
        time_ratio, macs_ratio = medians[variant] / medians[BASELINE], flops[variant] / flops[BASELINE]
        rows.append({"model": model, "variant": variant, "step_seconds": round(medians[variant], 4),
                     "time_ratio": round(time_ratio, 3), "macs_ratio": round(macs_ratio, 3),
                     "time_over_macs": round(time_ratio / macs_ratio, 3)})
    return rows


def run_config(model: str, variant: str, options) -> RunConfig:
    loss = {"name": variant, **({"group": options.images} if "group" in AUXILIARY[variant].model_fields else {})} if variant in LOSSES else None
    return resolve({
        "model": {"name": model, "block": options.block}, "formulation": {"name": "edm"},
        "objective": {"name": BASELINE, "with": [loss]} if loss else {"name": variant},
        "data": {"name": "latents", "path": "none", "resolution": 32, "channels": 4, "classes": 1000},
        "train": {"images": 10**6, "global_batch": options.images, "checkpoint_every_images": 10**6},
    }, "benchmark")


def make_step(config: RunConfig, options):
    """One step as a function; all that it needs stays on the device."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.precision]
    model, objective = build_model(config).to(options.device, dtype).train(), make_objective(config)
    with torch.no_grad():
        for parameter in model.parameters():                                   # zero gates would let a backend skip work
            parameter.normal_(std=0.02)
    if objective.has_teacher:
        objective.teacher = copy.deepcopy(model).requires_grad_(False)
        objective.buffers = {name: buffer.to(options.device) for name, buffer in objective.buffers.items()}
    positions = torch.arange(options.images, device=options.device)
    draws = randomness.draw(0, positions, objective.streams)
    batch = CleanBatch(torch.randn(options.images, 4, 32, 32, device=options.device), positions % 1000)

    def step():
        model.zero_grad(set_to_none=True)
        sum(objective(model, batch, draws).losses.values()).backward()
        objective.after_step(lambda mean: mean)
        if options.device == "cuda":
            torch.cuda.synchronize()
    return step


def take_turns(steps: dict, options) -> dict[str, float]:
    """Median seconds of each; after two steps to warm up, round and round until the time is used."""
    for step in [*steps.values()] * 2:
        step()
    seconds, ends = {name: [] for name in steps}, time.perf_counter() + options.seconds
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    while time.perf_counter() < ends or len(seconds[BASELINE]) < 5:
        for name, step in steps.items():
            started = clock()
            step()
            seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
