"""A formulation is its files and a line: nothing else in ditscale knows one by name."""

import ast
import subprocess
import sys
from pathlib import Path

import ditscale
from ditscale.diffusion.registry import by_name

PACKAGE = Path(ditscale.__file__).parent
MAY_NAME = {                                                                   # outside a formulation's own files
    "config.py": "the sampler that is called ddpm", "diffusion/nfe.py": "the sampler that is called ddpm",
    "diffusion/samplers.py": "the sampler that is called ddpm", "figures/kit/published.py": "samplers as papers print them",
    "evaluation/export.py": "what diffusers' pipeline samples", "evaluation/model_card.py": "what diffusers' pipeline samples",
    "models/convert.py": "the formulation whose time and outputs are the released DiT's",
    "models/peers": "which formulation a peer's weights were trained under",
}
MADE_UP = '''
import math
from typing import Literal

import torch

from ditscale.diffusion import registry
from ditscale.diffusion.flow import Flow
from ditscale.diffusion.flow_options import FlowFacts
from ditscale.diffusion.options import FormulationOptions


class Tilted(Flow):
    """Flow whose training levels lean to noise: t = u^power."""

    name = "tilted"

    def __init__(self, power: float):
        super().__init__("cosine")
        self.power = power

    def level(self, uniform):
        return uniform ** self.power


class TiltedOptions(FlowFacts, FormulationOptions):
    name: Literal["tilted"]
    power: float = 0.5
    samplers = ("heun", "euler")
    highest_level, level_unit = 1.0, "tilt, from 0 to 1"

    def make(self):
        return Tilted(**self.settings())


registry.FORMULATIONS.append(TiltedOptions)

from ditscale.config import resolve
from ditscale.cost.runs import sampling_flops
from ditscale.diffusion.samplers import sample
from ditscale.errors import UserError
from ditscale.objectives.objective import CleanBatch
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.randomness import draw

values = {
    "model": {"name": "DiT-nano/2"}, "data": {"name": "dots", "path": "dots.beton", "resolution": 8, "channels": 1, "classes": 10},
    "formulation": {"name": "tilted", "power": 0.8}, "objective": {"name": "baseline"},
    "train": {"images": 6400, "global_batch": 64, "checkpoint_every_images": 6400},
    "evaluation": {"samples": 16, "sampling_steps": 4, "reference_path": "dots.beton"}}
config = resolve(values, "made-up")
assert config.science()["formulation"] == {"name": "tilted", "power": 0.8} and sampling_flops(config) > 0
objective, model = make_objective(config), build_model(config)
assert type(objective.formulation) is Tilted and model.out_channels == 1
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
images, positions = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 - 0.75, torch.arange(64)
draws, losses = draw(0, positions, objective.streams), []
for _ in range(30):
    loss = sum(objective(model, CleanBatch(images, positions % 10), draws).losses.values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < 0.8 * losses[0], losses
drawn = sample(model.eval(), objective.formulation, torch.randn(4, 1, 8, 8), torch.arange(4), sampler="heun", steps=4)
assert drawn.shape == (4, 1, 8, 8) and drawn.isfinite().all()
for section, key, value in (("evaluation", "sampler", "sde"), ("evaluation", "guidance_interval", [0.5, 2.0]),
                            ("formulation", "tilt", 1.0), ("evaluation", "churn", 2.0), ("formulation", "name", "titled")):
    try:
        resolve(values | {section: values[section] | {key: value}}, "made-up")
    except UserError as error:
        print(error)
'''


def test_a_made_up_formulation_in_one_file_trains_and_samples(tmp_path):
    (tmp_path / "tilted.py").write_text(MADE_UP)
    done = subprocess.run([sys.executable, str(tmp_path / "tilted.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sampler, interval, option, churn, name = done.stdout.splitlines()
    assert "'sde' does not work with formulation 'tilted': heun, euler would" in sampler
    assert "is outside tilted's levels: tilt, from 0 to 1" in interval
    assert "'formulation.tilt' for formulation tilted" in option or "unknown key 'formulation.tilt'" in option
    assert "evaluation.churn is for formulation edm; it has no effect with formulation tilted" in churn
    assert "did you mean 'tilted'" in name and "ddpm, edm, flow, tilted" in name


def test_no_other_file_names_a_formulation():
    named = {}
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE).as_posix()
        own = [name for name in by_name() if where in (f"diffusion/{name}.py", f"diffusion/{name}_options.py")]
        found = {node.value for node in ast.walk(ast.parse(path.read_text()))
                 if isinstance(node, ast.Constant) and node.value in by_name()}
        if found - set(own) and not any(where.startswith(place) for place in MAY_NAME):
            named[where] = found
    assert not named


def test_options_need_no_torch():
    code = "import sys, ditscale.config, ditscale.diffusion.nfe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
