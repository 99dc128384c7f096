"""A variant and a block design that ditscale does not have: one file and one entry in a list, in a copy of the package, do it all.

The copy is edited as a contributor would edit the package, and used from the command line.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

VARIANT = '''"""The plain loss, and a pull of the output to zero."""

from typing import Literal

from pydantic import Field

from ditscale.models.macs import plain_card
from ditscale.objectives.variant import Variant


class CalmConfig(Variant):
    """Plain DiT training with a penalty on the size of the output."""

    name: Literal["calm"]
    calm_weight: float = Field(0.1, ge=0)

    color = "#2e7d4f"
    dark_color = "#7fd3a0"
    column = {"": "calm", "loss terms": "`generative`, `calm`"}

    def objective(self, config):
        from ditscale.objectives.baseline.objective import Baseline

        class Calm(Baseline):
            def __call__(self, model, batch, draws):
                outputs = []
                terms = super().__call__(lambda *inputs: outputs.append(model(*inputs)) or outputs[-1], batch, draws)
                terms.losses["calm"] = weight * outputs[0].float().square().mean()
                return terms

        weight = self.calm_weight
        return Calm, {}

    def model(self, dims):
        from ditscale.models.dit import DiT

        return DiT, {}

    def card(self, backbone, kept=None):
        return plain_card(backbone)
'''

BLOCK = '''"""A plain block whose attention and MLP stand side by side, behind one norm."""

from torch import nn

from ditscale.models.layers import Attention, Mlp


class ParallelBlock(nn.Module):
    def __init__(self, hidden_size, condition_size, num_heads, mlp_ratio, switches, relative_grid):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.attn, self.mlp = Attention(hidden_size, num_heads, switches, relative_grid), Mlp(hidden_size, mlp_ratio, switches)

    def forward(self, x, c, relative=None):
        normed = self.norm(x)
        return x + self.attn(normed, relative) + self.mlp(normed)
'''

DESIGN = '''    BlockDesign("parallel", "parallel", "#2e7d4f", "#7fd3a0", "ditscale.models.blocks.parallel:ParallelBlock", condition="tokens",
                norms=1),
'''


@pytest.fixture
def house(tmp_path, repository):
    """``house(file, text, registry, {before: line})``: a copy of the package with this file, and lines in a registry before others."""
    def build(file, text, registry, lines):
        shutil.copytree(repository / "ditscale", tmp_path / "ditscale", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(repository / "ds_configs", tmp_path / "ds_configs")
        (tmp_path / "ditscale" / file).write_text(text)
        listed = (tmp_path / "ditscale" / registry).read_text()
        for before, line in lines.items():
            assert listed.count(before) == 1
            listed = listed.replace(before, line + before)
        (tmp_path / "ditscale" / registry).write_text(listed)
        return tmp_path
    return build


def run(house, *arguments, code="from ditscale.cli import main; main()"):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=house, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(house), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_spec(house, values, parameters):
    values["train"] |= {"images": 640, "checkpoint_every_images": 320}
    values["resources"] = {"log_every_images": 64, "loader": "mmap"}
    (house / "spec.yaml").write_text(yaml.safe_dump({"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values,
                                                    "parameters": parameters, "runs_dir": str(house / "runs")}))
    return house / "spec.yaml"


def test_a_made_up_variant(house, digits_values):
    """Planned, trained, sampled and reported beside the baseline."""
    house = house("objectives/calm.py", VARIANT, "objectives/__init__.py",
                  {"from ditscale.objectives.discriminative": "from ditscale.objectives.calm import CalmConfig\n", ")}\n": "    CalmConfig,\n"})
    spec = write_spec(house, digits_values, {"objective.name": {"values": ["baseline", "calm"]}})
    assert "calm" in run(house, "plan", spec)
    assert "to baseline" in run(house, "models", "--variant", "calm", "--resolution", 8)
    run(house, "launch", spec)
    [trained] = (house / "runs" / "study").glob("*-calm-*")
    logged = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/generative", "loss/calm"} <= set(logged[-1])
    assert len((trained / "evals.jsonl").read_text().splitlines()) == 2
    run(house, "sample", trained, house / "images.npz", "--images", 8)
    assert (house / "images.npz").exists()
    run(house, "export", trained, house / "weights.pt")                        # a plain DiT: every format holds it
    run(house, "report", house / "runs" / "study", "--out", house / "page")
    page = (house / "page" / "report.html").read_text(encoding="utf-8")
    assert "Variant calm against baseline, 1 times" in page
    assert "--calm:#2e7d4f" in page and "--calm:#7fd3a0" in page               # its color, on light and on dark paper


def test_a_made_up_block_design(house, digits_values):
    """Planned and built, its closed forms as PyTorch counts them."""
    house = house("models/blocks/parallel.py", BLOCK, "models/blocks/__init__.py", {")}\n": DESIGN})
    spec = write_spec(house, digits_values, {"model.block": {"values": ["adaln_zero", "parallel"]}})
    planned = run(house, "plan", spec)
    assert re.search(r"DiT-atto-4-parallel-baseline", planned)
    counted = run(house, spec, code="""
import sys
from ditscale.cost.runs import run_card
from ditscale.figures.kit import panels, style
from ditscale.objectives.from_config import build_model
from ditscale.studies.spec.spec import expand, load_spec
[config] = [run.config for run in expand(load_spec(sys.argv[1], ()), sys.argv[1]) if run.config.model.block == "parallel"]
model = build_model(config)
assert type(model.blocks[0]).__name__ == "ParallelBlock"
print(run_card(config).parameters, sum(p.numel() for p in model.parameters()), panels.BLOCK_NAMES["parallel"], style.BLOCK_COLORS["parallel"])
""").split()
    assert counted[0] == counted[1] and counted[2:] == ["parallel", "#2e7d4f"]
