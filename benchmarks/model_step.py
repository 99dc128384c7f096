"""Forward and backward of our DiT against diffusers' ``DiTTransformer2DModel``, and compiled against eager. One run, ratios.

    python benchmarks/model_step.py [--seconds 20] [--eager-only]

Both models hold the same weights. They take turns, so that a noisy machine disturbs both alike; the medians are compared.
The last line is one JSON object. A ratio above 1 means that ours is faster (or compiled is faster than eager).
"""

import argparse
import json
import statistics
import time

import torch
from tiny import parse

from ditscale.models.convert import to_diffusers
from ditscale.models.dit import create_model

CASES = (("DiT-S/8", 32), ("DiT-S/2", 2), ("DiT-B/4", 4))                        # model, images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="for each comparison")
    parser.add_argument("--eager-only", action="store_true", help="leave torch.compile out: on a CPU it takes a minute or more a case")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parse(parser, seconds=0.0, eager_only=True)
    results = {"benchmark": "model_step", "tiny": options.tiny, "torch": torch.__version__, "device": options.device,
               "threads": torch.get_num_threads(), "cases": []}
    for name, images in [("DiT-atto/8", 2)] if options.tiny else CASES:
        for dtype in (torch.float32, torch.bfloat16):
            case = measure(name, images, dtype, options)
            results["cases"].append(case)
            print(case, flush=True)
    print(json.dumps(results))


def measure(name: str, images: int, dtype: torch.dtype, options) -> dict:
    """Seconds of one forward and backward: ours eager, diffusers eager, ours compiled."""
    device = options.device
    model = create_model(name, seed=0, input_size=32, in_channels=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    twin = to_diffusers(model).to(device, dtype).train()
    for block in twin.transformer_blocks:                                        # no label dropout: the same work on both sides
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    model = model.to(device, dtype).train()
    x, t = torch.randn(images, 4, 32, 32, device=device, dtype=dtype), torch.rand(images, device=device) * 1000
    y = torch.randint(0, 1000, (images,), device=device)
    steps = {
        "ours": lambda: model(x, t, y).float().square().mean().backward(),
        "diffusers": lambda: twin(x, timestep=t, class_labels=y).sample.float().square().mean().backward(),
    }
    if not options.eager_only:
        compiled = torch.compile(model, fullgraph=True)
        steps["compiled"] = lambda: compiled(x, t, y).float().square().mean().backward()
    medians = take_turns(steps, device, options.seconds)
    ratios = {"diffusers_over_ours": medians["diffusers"] / medians["ours"]}
    if "compiled" in medians:
        ratios["eager_over_compiled"] = medians["ours"] / medians["compiled"]
    return {"model": name, "images": images, "dtype": str(dtype).removeprefix("torch."),
            "seconds": {step: round(value, 5) for step, value in medians.items()},
            **{name: round(ratio, 3) for name, ratio in ratios.items()}}


def take_turns(steps: dict, device: str, seconds: float) -> dict[str, float]:
    """The median time of each step; they run one after the other, round by round, for about that many seconds."""
    times = {name: [] for name in steps}
    for step in steps.values():                                                  # warm-up, and compilation
        step()
        step()
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times["ours"]) < 3:
        for name, step in steps.items():
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
