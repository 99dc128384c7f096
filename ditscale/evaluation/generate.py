"""Images from a model: image i of a seed is the same whatever the batch size, the number of ranks or the order."""

import torch
from torch import Tensor

from ditscale import randomness
from ditscale.diffusion.formulation import Formulation
from ditscale.diffusion.samplers import sample

QUANTISE = "floor(clamp(127.5 x + 128, 0, 255))"


def generate(model, formulation: Formulation, positions: Tensor, *, image_shape: tuple[int, int, int], classes: int, seed: int,
             sampler: str, steps: int, batch: int, **options) -> tuple[Tensor, Tensor]:
    """The images of a seed at ``positions`` (N,), with balanced labels (image i has class i mod classes).

    Returns uint8 (N, C, S, S) and labels (N,), both on the CPU. ``model`` is called as ``model(x, t, y)``; ``options`` are
    further fields of ``nfe.Sampling``.
    """
    images = []
    for part in positions.split(batch):
        noise = randomness.draw(seed, part, {"sampling noise": randomness.Normal(image_shape)})["sampling noise"]
        drawn = sample(model, formulation, noise, part % classes, sampler=sampler, steps=steps, seed=seed, positions=part,
                       **options)
        images.append(to_uint8(drawn).cpu())
    return torch.cat(images), (positions % classes).cpu()


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to 0..255 by the rule of DiT and EDM2, ``QUANTISE``."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)
