"""The baseline learns under every formulation, with named terms in fp32, also from a bf16 model."""

import pytest
import torch

from ditscale.config import resolve
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.randomness import draw

FORMULATIONS = [{"name": "flow"}, {"name": "flow", "interpolant": "cosine", "t_distribution": "logit_normal"}, {"name": "edm"},
                {"name": "flow", "prediction": "x", "time_shift": 2.0}, {"name": "ddpm"}, {"name": "ddpm", "schedule": "cosine", "min_snr_gamma": 5.0}]


@pytest.mark.parametrize("formulation", FORMULATIONS, ids=lambda f: "-".join(map(str, f.values())))
def test_a_few_steps_lower_the_loss(values, formulation):
    values["formulation"] = formulation
    config = resolve(values, "test")
    objective = make_objective(config)
    model = build_model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    images, labels = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 - 0.75, torch.arange(64) % 10
    draws = draw(0, torch.arange(64), objective.streams)                       # the same noise each step: the loss must go down
    losses = []
    for _ in range(40):
        terms = objective(model, CleanBatch(images, labels), draws).losses
        loss = sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    names = {"generative_mse", "generative_vb"} if formulation["name"] == "ddpm" else {"generative"}
    assert set(terms) == names and all(term.dtype == torch.float32 and term.ndim == 0 for term in terms.values())
    assert losses[-1] < 0.8 * losses[0], losses


@pytest.mark.parametrize("formulation", FORMULATIONS, ids=lambda f: "-".join(map(str, f.values())))
def test_only_the_network_runs_in_bf16(values, formulation):
    """Image and time reach it in fp32, and the loss leaves as fp32 equal to that of its rounded output."""
    values["formulation"] = formulation
    objective = make_objective(resolve(values, "test"))
    images, labels, draws = torch.rand(8, 1, 8, 8) - 0.5, torch.arange(8), draw(0, torch.arange(8), objective.streams)
    wide = lambda x, t: torch.cat([torch.sin(x)] * (1 + objective.formulation.learn_sigma), dim=1) + 1e-3 * t[:, None, None, None]

    def model(x, t, y, dtype=torch.bfloat16):
        assert x.dtype == t.dtype == torch.float32
        return wide(x, t).to(torch.bfloat16).to(dtype)

    half = objective(model, CleanBatch(images, labels), draws).losses
    full = objective(lambda x, t, y: model(x, t, y, torch.float32), CleanBatch(images, labels), draws).losses
    for name, term in half.items():
        assert term.dtype == torch.float32 and torch.equal(term, full[name])
