"""Encoders for REPA that need no network: functions to name as ``objective.with repa: encoder``. Each makes a module: images to features (B, T, d)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditscale.errors import UserError, did_you_mean
from ditscale.evaluation.extractors.digits_cnn import load_digits_cnn
from ditscale.evaluation.extractors.pretrained import fill, read_state, required

NORMALIZATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)                   # ImageNet's mean and standard deviation of pixels in [0, 1]


def digits_cnn(path: str) -> nn.Module:
    """The demo's CNN before its pooling: images (B, 1, 8, 8) in [-1, 1] to (B, 16, 64); ``path``: its weights.

    Raises:
        UserError: the weights are missing or are for another network.
    """
    return DigitsMap(load_digits_cnn(path).convolutions[:-1])


class DigitsMap(nn.Module):
    """The convolutions' map as tokens in row order."""

    def __init__(self, convolutions: nn.Module):
        super().__init__()
        self.convolutions = convolutions

    def forward(self, images: Tensor) -> Tensor:
        return self.convolutions((images + 1) / 2).flatten(2).transpose(1, 2)


def timm_vit(name: str, path: str | None = None, size: int = 224) -> nn.Module:
    """A vision transformer of timm by name, without its class token: images of 1 or 3 channels in [-1, 1], resized to ``size``, to (B, T, d).

    ``path``: its weights, a state dict; without, the weights are random, of seed 0.

    Raises:
        UserError: timm has no such model, or it is no vision transformer of that size.
    """
    import timm

    if name not in timm.list_models():
        raise UserError(f"encoder timm_vit: timm has no model '{name}'{did_you_mean(name, timm.list_models('*vit*')) or '.'}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
        except (TypeError, AssertionError) as error:
            raise UserError(f"encoder timm_vit: {name} cannot be made for images of {size} pixels: {error}") from None
    if path is not None:
        weights = required(name, path, "leave encoder_path out for random weights")
        fill(name, model, read_state(weights), weights)
    return PatchTokens(model, size)


class PatchTokens(nn.Module):
    """A timm vision transformer's last tokens but for the first ones that are no patches."""

    model: Any                                                                 # timm's
    mean: Tensor                                                               # (1, 3, 1, 1), as ``std``
    std: Tensor

    def __init__(self, model: nn.Module, size: int):
        super().__init__()
        self.model, self.size = model, size
        for name, values in zip(("mean", "std"), NORMALIZATION):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        resized = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True)
        tokens = self.model.forward_features(((resized + 1) / 2 - self.mean) / self.std)
        patches = math.isqrt(tokens.shape[1]) ** 2                             # a class token and registers come first
        return tokens[:, tokens.shape[1] - patches:]
