"""What samplers add to the model calls: by default S/8 on 32 x 32 x 4 latents, 250 steps, batch 64. One run, a share for each sampler.

    python benchmarks/sampler.py [--steps 250] [--samplers ddpm,ddim]

The model calls are timed inside the sampling itself, in the same seconds, so a noisy machine disturbs both alike: overhead is
all the time outside the model over the time inside. The share of each step is taken, and their median is the result. On a GPU
each call is waited for, which hides no work of the sampler. The last line is one JSON object.
"""

import argparse
import json
import statistics
import time

import torch
from tiny import parse

from ditscale.diffusion.ddpm import Ddpm
from ditscale.diffusion.edm import Edm
from ditscale.diffusion.flow import Flow
from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.samplers import sample
from ditscale.models.dit import create_model

CASES = {"ddpm": (Ddpm, {}), "ddim": (Ddpm, {}), "heun": (Flow, {}), "euler": (Flow, {}), "sde": (Flow, {}),
         "heun_churn": (Edm, {"churn": 40.0})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="DiT-S/8")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samplers", default="ddpm", help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parse(parser, model="DiT-atto/8", steps=3, batch=2, samplers=",".join(CASES))
    results = {"benchmark": "sampler", "tiny": options.tiny, "model": options.model, "torch": torch.__version__, "device": options.device,
               "threads": torch.get_num_threads(), "steps": options.steps, "batch": options.batch,
               "guidance_scale": options.guidance_scale, "cases": []}
    for name in options.samplers.split(","):
        case = measure(name, options)
        results["cases"].append(case)
        print(case, flush=True)
    print(json.dumps(results))


class Timed:
    """A model that notes when each call began and ended."""

    def __init__(self, model, device: str):
        self.model, self.device, self.calls = model, device, []

    def __call__(self, x, t, y):
        began = now(self.device)
        output = self.model(x, t, y)
        self.calls.append((began, now(self.device)))
        return output


def measure(name: str, options) -> dict:
    """Seconds in the model and outside it, in all and by step."""
    make, extra = CASES[name]
    formulation, device = make(), options.device
    model = create_model(options.model, seed=0, input_size=32, in_channels=4, learn_sigma=formulation.learn_sigma).to(device).eval()
    timed = Timed(torch.compile(model) if device.startswith("cuda") else model, device)
    guided = Guided(timed, options.guidance_scale, 1000)
    noise, labels = torch.randn(options.batch, 4, 32, 32, device=device), torch.arange(options.batch, device=device)
    draw = lambda steps: sample(guided, formulation, noise, labels, sampler=name.partition("_")[0], steps=steps, seed=0,
                                positions=labels, **extra)
    draw(3)                                                                    # warm-up, and compilation
    timed.calls.clear()
    began = now(device)
    draw(options.steps)
    ended = now(device)
    inside = [end - start for start, end in timed.calls]
    outside = [after - end for (_, end), (after, _) in zip(timed.calls, [*timed.calls[1:], (ended, ended)])]
    outside[0] += timed.calls[0][0] - began                                    # tables
    return {"sampler": name, "seconds": round(ended - began, 3), "model_seconds": round(sum(inside), 3),
            "model_ms_per_call": round(1e3 * statistics.median(inside), 3),
            "outside_ms_per_call": round(1e3 * statistics.median(outside), 3),
            "overhead": round(sum(outside) / sum(inside), 5),
            "overhead_median_call": round(statistics.median(out / within for out, within in zip(outside, inside)), 5)}


def now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
