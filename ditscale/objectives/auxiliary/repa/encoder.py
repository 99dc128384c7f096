"""A frozen encoder by import path, for REPA's features of the clean image."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ditscale.errors import UserError, first_line
from ditscale.objectives.auxiliary.repa import Repa

if TYPE_CHECKING:
    from ditscale.objectives.auxiliary.loss import Seen


class Encoder:
    """Features (B, T', d) of a micro batch's clean images. The module is made at the first call, so that sampling needs none."""

    def __init__(self, options: Repa):
        self.options = options
        self.module: nn.Module | None = None

    @torch.no_grad()
    def __call__(self, seen: "Seen") -> Tensor:
        if self.module is None:
            options = self.options
            self.module = make_encoder(options.encoder, options.encoder_path, options.encoder_options).to(seen.clean.device)
        return features_of(self.module, self.options.encoder, seen.clean, self.options.feature_width)


def make_encoder(name: str, path: str | None, options: dict) -> nn.Module:
    """The module that a function makes, frozen.

    Raises:
        UserError: there is no such function, it refuses its arguments, or it makes something else.
    """
    what = f"objective.with repa: encoder {name}"
    if path is not None and not Path(path).exists():
        raise UserError(f"objective.with repa: encoder_path {path} does not exist")
    where, _, attribute = name.partition(":")
    try:
        function: Callable = getattr(importlib.import_module(where), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{what}: {first_line(error)}; name it as package.module:function, importable from here") from None
    arguments = options if path is None else {**options, "path": path}
    try:
        module = function(**arguments)
    except TypeError as error:
        raise UserError(f"{what} with encoder_options {arguments}: {first_line(error)}") from None
    if not isinstance(module, nn.Module):
        raise UserError(f"{what} makes a {type(module).__name__}; it must make a torch.nn.Module")
    return module.requires_grad_(False).eval()


def features_of(module: nn.Module, name: str, images: Tensor, width: int) -> Tensor:
    """The module's features of images (B, C, S, S): (B, T', width), in the precision of its weights.

    Raises:
        UserError: they have another shape.
    """
    weights = next(module.parameters(), images)
    features = module(images.to(weights.dtype))
    if not isinstance(features, Tensor) or features.ndim != 3 or (len(features), features.shape[2]) != (len(images), width):
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(f"objective.with repa: encoder {name} gives {got} for {len(images)} images; with feature_width {width} it must be "
                        f"({len(images)}, tokens, {width})")
    return features
