"""A frozen encoder by import path, for REPA's features of the clean image."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ditscale.device import needs_an_accelerator
from ditscale.errors import UserError, first_line
from ditscale.objectives.auxiliary.repa import Repa
from ditscale.objectives.auxiliary.repa.alignment import on_grid

if TYPE_CHECKING:
    from ditscale.config import RunConfig
    from ditscale.objectives.auxiliary.loss import Seen


class Keys(NamedTuple):
    """How the user gave the encoder, its weights and its arguments, for messages."""

    encoder: str = "objective.with repa: encoder"
    path: str = "objective.with repa: encoder_path"
    options: str = "encoder_options"


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


def check_encoder(options: Repa, config: "RunConfig") -> None:
    """Makes the encoder of a run and gives it one blank image, on the CPU of this machine.

    Raises:
        UserError: it cannot be made, or its features are not what the options and the model's tokens need.
    """
    module, image = make_encoder(options.encoder, options.encoder_path, options.encoder_options), (config.data.channels, *[config.data.resolution] * 2)
    try:
        with torch.no_grad():
            features = features_of(module, options.encoder, torch.zeros(1, *image), options.feature_width)
    except UserError:
        raise
    except Exception as error:                                                 # of the user's module: any kind
        if needs_an_accelerator(error):
            return                                                             # the run finds out
        raise UserError(f"objective.with repa: encoder {options.encoder} fails on an image of {' x '.join(map(str, image))}, as the model sees it: "
                        f"{type(error).__name__}: {first_line(error)}") from error
    on_grid(features, config.tokens)


def make_encoder(name: str, path: str | None, options: dict, keys: Keys = Keys()) -> nn.Module:
    """The module that a function makes, frozen. The function is imported as ``python -m`` would, also from the working folder.

    Raises:
        UserError: there is no such function, it fails, or it makes something else.
    """
    what = f"{keys.encoder} {name}"
    if path is not None and not Path(path).exists():
        raise UserError(f"{keys.path} {path} does not exist")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    where, _, attribute = name.partition(":")
    try:
        function: Callable = getattr(importlib.import_module(where), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{what}: {first_line(error)}; name it as package.module:function, importable from here") from None
    arguments = options if path is None else {**options, "path": path}
    try:
        module = function(**arguments)
    except Exception as error:                                                 # of the user's function: any kind
        raise UserError(f"{what} with {keys.options} {arguments}: {type(error).__name__}: {first_line(error)}") from error
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
