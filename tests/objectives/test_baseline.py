"""The baseline objective: which labels the model sees, and that the loss is what the formulation says."""

import torch

from ditscale import randomness
from ditscale.diffusion.flow import Flow
from ditscale.objectives.baseline.objective import Baseline
from ditscale.objectives.objective import CleanBatch


def seen_by_model(drop, batch=2000):
    """Labels that reach the model, the ones that went in, and the loss of a model that answers zero."""
    seen = {}

    def model(x, t, y):
        seen.update(x=x, t=t, y=y)
        return torch.zeros_like(x)

    objective = Baseline(Flow(), (1, 2, 2), num_classes=10, class_dropout_prob=drop, images=64)
    images, labels = torch.rand(batch, 1, 2, 2) * 2 - 1, torch.arange(batch) % 10
    draws = randomness.draw(0, torch.arange(batch), objective.streams)
    terms = objective(model, CleanBatch(images, labels), draws).losses
    return seen, images, labels, draws, terms


def test_dropped_labels_become_the_null_class():
    seen, _, labels, draws, _ = seen_by_model(drop=0.1)
    dropped = seen["y"] == 10
    assert torch.equal(seen["y"][~dropped], labels[~dropped])
    assert torch.equal(dropped, draws["label drop"][:, 0] < 0.1)
    assert abs(dropped.float().mean() - 0.1) < 4 * (0.1 * 0.9 / 2000) ** 0.5


def test_no_dropout_drops_nothing():
    seen, _, labels, _, _ = seen_by_model(drop=0.0)
    assert torch.equal(seen["y"], labels)


def test_loss_by_hand():
    seen, images, _, draws, terms = seen_by_model(drop=0.1)
    assert set(terms) == {"generative"} and terms["generative"].dtype is torch.float32
    assert torch.allclose(terms["generative"], ((draws["noise"] - images) ** 2).mean(), rtol=1e-6)
    t = draws["noise level"]
    assert torch.allclose(seen["t"], 1000 * t[:, 0])
    t = t[:, :, None, None]
    assert torch.allclose(seen["x"], (1 - t) * images + t * draws["noise"], atol=1e-6)
