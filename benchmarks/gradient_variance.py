"""How noisy MDT's gradient is when its two passes share noise and label drops, against fresh ones for the second pass.

    python benchmarks/gradient_variance.py [--model DiT-nano/2] [--formulation ddpm] [--at 0 200 1000] [--batches 200] [--tiny]

A small ``mdt`` model trains on scikit-learn's digits; now and then its gradient is taken on many batches, with shared and with
fresh draws for the same images, levels and masks. The variance is the trace of the gradient's covariance over batches. The last
line is one JSON object: for each number of steps, both variances and their ratio (shared over fresh).
"""

import argparse
import json

import torch
from sklearn.datasets import load_digits
from tiny import parse

from ditscale import randomness
from ditscale.config import resolve
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="DiT-nano/2")
    parser.add_argument("--formulation", default="ddpm", help="MDT's own is ddpm")
    parser.add_argument("--at", type=int, nargs="+", default=[0, 200, 1000], help="steps of training before each measurement")
    parser.add_argument("--batch", type=int, default=32, help="images of a batch, in training and in each gradient")
    parser.add_argument("--batches", type=int, default=200, help="gradients whose variance is taken")
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parse(parser, model="DiT-atto/4", at=[1], batch=4, batches=4)
    fresh, shared = (make_objective(config(options, value)) for value in (False, True))
    model = build_model(config(options, False))
    optimizer, data, rows = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.0), digits(), []
    for step in range(max(options.at) + 1):
        if step in options.at:
            variances = {name: variance(model, objective, data, options)
                         for name, objective in (("fresh", fresh), ("shared", shared))}
            rows.append({"steps": step, **variances, "ratio": variances["shared"] / variances["fresh"]})
            print(rows[-1], flush=True)
        for parameter, gradient in zip(model.parameters(), gradients(model, fresh, data, step, options.batch)):
            parameter.grad = gradient
        optimizer.step()
    print(json.dumps({"benchmark": "gradient_variance", "tiny": options.tiny, "torch": torch.__version__, "model": options.model, "batch": options.batch,
                      "formulation": options.formulation, "batches": options.batches, "cases": rows}))


def config(options, shared: bool):
    return resolve({
        "model": {"name": options.model}, "formulation": {"name": options.formulation},
        "objective": {"name": "mdt", "shared_draws": shared},
        "data": {"name": "digits", "path": "none", "resolution": 8, "channels": 1, "classes": 10},
        "train": {"images": 10**6, "global_batch": options.batch, "checkpoint_every_images": 10**6}}, "benchmark")


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (1797, 1, 8, 8) in [-1, 1], and labels."""
    found = load_digits()
    return torch.from_numpy(found.images[:, None] / 8 - 1).float(), torch.from_numpy(found.target).long()


def gradients(model, objective, data, index: int, batch: int) -> list[torch.Tensor]:
    """Of the loss on the batch of that index; both objectives draw the same images, levels and masks for it."""
    images, labels = data
    positions = torch.arange(index * batch, (index + 1) * batch)
    picked = torch.randint(len(images), (batch,), generator=torch.Generator().manual_seed(index))
    draws = randomness.draw(1, positions, objective.streams)
    losses = objective(model, CleanBatch(images[picked], labels[picked]), draws).losses
    return torch.autograd.grad(sum(losses.values()), list(model.parameters()), materialize_grads=True)


def variance(model, objective, data, options) -> float:
    """Trace of the covariance of the gradient over batches that training does not draw."""
    total, squares = 0.0, 0.0
    for i in range(options.batches):
        gradient = torch.cat([part.flatten() for part in gradients(model, objective, data, 10**6 + i, options.batch)]).double()
        total, squares = total + gradient, squares + gradient.square().sum().item()
    return (squares - total.square().sum().item() / options.batches) / (options.batches - 1)


if __name__ == "__main__":
    main()
