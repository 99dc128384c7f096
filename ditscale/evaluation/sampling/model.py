"""Loads the weights for sampling (a saved average, one of any length, or the last weights) and the model with them."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ditscale.config import RunConfig
from ditscale.data.vae import weights_sha256
from ditscale.device import is_accelerator
from ditscale.errors import UserError
from ditscale.models.linear import pack
from ditscale.objectives.from_config import inference_model
from ditscale.rundir import RunDir
from ditscale.training.checkpoint.checkpoint import images_of
from ditscale.training.checkpoint.weights import NoSuchAverage, load_into, pick_checkpoint, rebuild, run_config, saved_average

LENGTH = "length-"                                                             # length-0.07: rebuilt from the tracks


def frozen_model(config: RunConfig, weights: dict[str, Tensor], device: torch.device) -> Callable[..., Tensor]:
    """The run's model with these weights, by parameter name, in eval mode and without gradients; compiled at its first call where
    ``compiles`` says so.

    Raises:
        UserError: they do not fit the run's model.
    """
    model = inference_model(config)
    load_into(model, weights, config)
    model = model.to(device).eval().requires_grad_(False)
    if compiles(config, device):                                               # so that a batch size has one kernel, whichever size came first
        return torch.compile(model, dynamic=False)
    pack(model)
    return model


def compiles(config: RunConfig, device: torch.device) -> bool:
    """Whether the sampling model is compiled: always on an accelerator, on a CPU with ``resources.compile``."""
    return is_accelerator(device) or config.resources.compile


def choose_weights(run: RunDir, images: int | None, average: str) -> tuple[dict[str, Tensor], dict]:
    """Weights by parameter name, fp32, and their description: ``{"checkpoint", "average", "weights_sha256"}``.

    Args:
        images: the checkpoint at this number of images; None: the newest.
        average: ``ema``, ``ema-decay-0.999``, ``ema-power-0.05``, ``masters``, or ``length-0.07``.

    Raises:
        UserError: the checkpoint or average does not exist (the message lists existing ones), or a length cannot be rebuilt.
    """
    checkpoint = pick_checkpoint(run, images, average)
    weights = weights_at(run, checkpoint, average)
    return weights, {"checkpoint": checkpoint.name, "average": average, "weights_sha256": weights_sha256(weights)}


def weights_at(run: RunDir, checkpoint: Path, average: str) -> dict[str, Tensor]:
    """The same weights of an open checkpoint, without their hash, which takes seconds for a large model."""
    if average.startswith(LENGTH):
        return rebuild(run, _length(average), images_of(checkpoint))[0]
    return _saved(run, checkpoint, average)


def _saved(run: RunDir, checkpoint, average: str) -> dict[str, Tensor]:
    try:
        return saved_average(run, checkpoint, average)
    except NoSuchAverage as error:
        more = f", and {LENGTH}0.07 (any length)" if run_config(run).train.ema_lengths else ""
        raise UserError(f"average '{average}': {error}{more}") from None


def _length(average: str) -> float:
    try:
        return float(average.removeprefix(LENGTH))
    except ValueError:
        raise UserError(f"average '{average}': {LENGTH} must be followed by a number, for example {LENGTH}0.07") from None
