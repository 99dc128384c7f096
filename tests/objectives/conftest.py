"""Objectives with their models and a batch of random images."""

from types import SimpleNamespace

import pytest
import torch

from ditscale.config import resolve
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.randomness import draw


@pytest.fixture
def setting(values):
    """``setting(objective, formulation=...)``: the objective, its model with random weights, a batch and its draws."""
    def make(options, formulation="flow", name="DiT-nano/2", batch=8, images_seen=0, start=0, design="adaln_zero", **more):
        values["objective"], values["model"] = options, {"name": name, "block": design}
        values["formulation"] = {"name": formulation} if isinstance(formulation, str) else formulation
        values["train"] |= more
        config = resolve(values, "test")
        model, objective = build_model(config), make_objective(config)
        torch.manual_seed(5)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        positions = torch.arange(start, start + batch)
        images = draw(9, positions, {"images": objective.streams["noise"]})["images"].clamp(-1, 1)
        return SimpleNamespace(config=config, model=model, objective=objective, draws=draw(0, positions, objective.streams),
                               batch=CleanBatch(images, positions % 10, images_seen))
    return make
