"""Error of every sampler against model evaluations, on Gaussian data, where the truth is known; `make pictures` draws it for docs/formulations.md.

    python benchmarks/convergence.py [--out sampler_convergence.png] [--most 512]

Left: ODE samplers, the largest distance of an image from where the exact ODE takes its noise. Right: stochastic samplers, which
have no one right image: the largest error of the covariance, which for a linear network and Gaussian noise is worked out exactly,
from the sensitivity to each step's noise. The last line is one JSON object.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from tiny import parse

from ditscale.diffusion import samplers
from ditscale.diffusion.ddpm import Ddpm
from ditscale.diffusion.edm import Edm
from ditscale.diffusion.flow import Flow
from ditscale.diffusion.gaussian import COVARIANCE, gaussian_network, ode_map
from ditscale.diffusion.nfe import evaluations
from ditscale.figures.kit.style import GRID, INK, MUTED, RC

# Okabe and Ito's colors, which color-blind readers tell apart; markers and dashes say the same again.
COLORS = {"ddpm": "#0072B2", "edm": "#D55E00", "flow, linear": "#009E73", "flow, cosine": "#CC79A7"}
MAKE = {"ddpm": Ddpm, "edm": lambda: Edm(sigma_min=1e-4), "flow, linear": Flow, "flow, cosine": lambda: Flow("cosine")}
ODE = [(name, sampler) for sampler in ("euler", "heun") for name in MAKE]
LAST = {"sde_last_step": 0.01}
SDE = [("ddpm", "ddpm", {}), ("ddpm", "ddim", {"eta": 1.0}), ("edm", "heun", {"churn": 20.0}), ("flow, linear", "sde", LAST),
       ("flow, linear", "sde", {"sde_diffusion": "sin2", **LAST}), ("flow, cosine", "sde", LAST)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sampler_convergence.png"))
    parser.add_argument("--most", type=int, default=512, help="steps of the finest run")
    options = parse(parser, most=16, out=Path(os.devnull))
    steps = [8 * 2**i for i in range(20) if 8 * 2**i <= options.most]
    results = {"benchmark": "convergence", "tiny": options.tiny, "steps": steps, "ode": {}, "stochastic": {}}
    for name, sampler in ODE:
        results["ode"][f"{sampler}, {name}"] = [ode_error(MAKE[name](), sampler, n) for n in steps]
    for name, sampler, extra in SDE:
        results["stochastic"][label(name, sampler, extra)] = [covariance_error(MAKE[name](), sampler, n, extra) for n in steps]
    draw(results, steps, options.out)
    print(json.dumps(results))


def label(name: str, sampler: str, extra: dict) -> str:
    """``sde w=sin2, flow, linear``."""
    shown = {"eta": "eta {:g}", "churn": "churn {:g}", "sde_diffusion": "w = {}"}
    return " ".join([sampler, *(shown[key].format(value) for key, value in extra.items() if key in shown)]) + f", {name}"


def ode_error(formulation, sampler: str, steps: int) -> float:
    noise = torch.randn(1, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = samplers.sample(gaussian_network(formulation), formulation, noise, torch.zeros(1), sampler=sampler, steps=steps)
    return (drawn - ode_map(formulation, noise)).abs().max().item()


class UnitNoise:
    """In place of ``StepNoise``: at step k only images 2 k + 2 and 2 k + 3 get noise, one unit vector each."""

    def __init__(self, images: int):
        self.images = images

    def at(self, step: int) -> torch.Tensor:
        noise = torch.zeros(self.images, 2, 1, 1, dtype=torch.float64)
        noise[2 * step + 2:2 * step + 4, :, 0, 0] = torch.eye(2, dtype=torch.float64)
        return noise


def covariance_error(formulation, sampler: str, steps: int, extra: dict) -> float:
    """A sample is linear in its start and in each step's noise, so its covariance is a sum of squares of sensitivities: images 0
    and 1 start from unit vectors, the others from zero."""
    noise, original = UnitNoise(2 * steps + 2), samplers.StepNoise
    samplers.StepNoise = lambda *_: noise
    try:
        network = gaussian_network(formulation, mean=torch.zeros(2, dtype=torch.float64))
        images = torch.arange(noise.images)
        ends = samplers.sample(network, formulation, noise.at(-1), images, sampler=sampler, steps=steps, seed=0, positions=images,
                               **extra)[:, :, 0, 0]
    finally:
        samplers.StepNoise = original
    return (ends.T @ ends - COVARIANCE).abs().max().item()


def draw(results: dict, steps: list[int], out: Path) -> None:
    """Two panels, both axes logarithmic."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for key, errors in results["ode"].items():
            sampler, name = key.split(", ", 1)
            left.plot([evaluations(sampler, n) for n in steps], errors, color=COLORS[name], label=key,
                      marker="o" if sampler == "euler" else "s", linestyle="--" if sampler == "euler" else "-", markersize=4)
        for i, (key, errors) in enumerate(results["stochastic"].items()):
            name, sampler = next(c for c in COLORS if key.endswith(c)), key.split(" ")[0].split(",")[0]
            right.plot([evaluations(sampler, n) for n in steps], errors, color=COLORS[name], label=key, marker="osD^vP"[i],
                       linestyle=["-", "--"][i % 2], markersize=4)
        for axes, what, title in ((left, "Largest error of a pixel", "ODE samplers: Euler order 1, Heun order 2"),
                                  (right, "Largest error of the covariance", "Stochastic samplers")):
            axes.set(xscale="log", yscale="log", xlabel="Model evaluations for an image (NFE)", ylabel=what)
            axes.set_title(title, fontsize=10, color=INK)
            axes.grid(True, which="major", color=GRID)
            axes.legend(fontsize=8)
        guide = [float(evaluations("heun", n)) for n in steps]
        for order, height in ((1, 3.0), (2, 3.0)):
            left.plot(guide, [height * (guide[0] / x) ** order for x in guide], color=MUTED, linewidth=0.8, linestyle=":")
            left.annotate(f"order {order}", (guide[-1], height * (guide[0] / guide[-1]) ** order), fontsize=8, color=MUTED,
                          ha="right", va="bottom")
        figure.savefig(out, format="png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
