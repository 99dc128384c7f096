"""Data made up for benchmarks: latents as an encoder gives them, and small pictures that a model can learn."""

from pathlib import Path

import numpy as np
import torch

from ditscale.data.beton import write_beton
from ditscale.data.latents import to_bits
from ditscale.data.manifest import Manifest, write_manifest


def write_latents(path: Path, samples: int = 512, classes: int = 1000, shape: tuple[int, int, int] = (4, 32, 32)) -> None:
    """Random moments: means with a spread of 5, small stds."""
    generator = torch.Generator().manual_seed(0)
    moments = torch.randn(samples, 2, 2, *shape, generator=generator)
    moments[:, :, 0] *= 5.0
    moments[:, :, 1] = moments[:, :, 1].abs() * 0.1
    _write(path, "moments", to_bits(moments, "fp16"), classes, shape, kind="latents",
           encoder={"class": "AutoencoderKL", "weights_sha256": "0" * 64, "bits": "fp16",
                    "scaling_factor": 0.18215, "shift_factor": 0.0, "has_std": True})


def write_pictures(path: Path, samples: int = 50_000) -> None:
    """uint8 (3, 32, 32) in 10 classes, as CIFAR-10 is: waves whose direction and color tell the class, under noise."""
    random, classes = np.random.default_rng(0), 10
    labels = np.arange(samples) % classes
    y, x = np.mgrid[0:32, 0:32] / 32
    angle = labels[:, None, None] * np.pi / classes
    waves = np.sin(2 * np.pi * (3 * (x * np.cos(angle) + y * np.sin(angle)) + random.random((samples, 1, 1))))
    colors = np.random.default_rng(1).uniform(0.2, 1.0, (classes, 3))[labels]
    pictures = 128 + 90 * waves[:, None].astype(np.float32) * colors[:, :, None, None].astype(np.float32)
    pictures += random.normal(scale=8, size=pictures.shape).astype(np.float32)
    _write(path, "image", pictures.clip(0, 255).astype(np.uint8), classes, (3, 32, 32))


def _write(path: Path, field: str, values: np.ndarray, classes: int, shape, **more) -> None:
    labels = np.arange(len(values)) % classes
    write_beton(path, {field: values, "label": labels})
    write_manifest(path, Manifest(
        name="made", split="train", samples=len(values), shape=list(shape), classes=classes,
        class_counts=np.bincount(labels, minlength=classes).tolist(), source="made for a benchmark", source_blake2b="",
        content_blake2b="", writer="numpy", ditscale_version="benchmark", **more))
