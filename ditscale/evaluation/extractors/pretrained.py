"""Weights of feature networks: local files named by the user, never downloaded, and their hashes."""

import hashlib
import pickle
from pathlib import Path
from typing import TypeVar

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ditscale.errors import UserError

Network = TypeVar("Network", bound=nn.Module)


def required(name: str, weights_path, hint: str) -> Path:
    """Returns the path. Raises UserError if it is None or not a file; ``hint`` says where to get the weights."""
    if weights_path is None:
        raise UserError(f"{name} needs the path of its weights (evaluation.extractor_path, --weights); {hint}")
    if not Path(weights_path).is_file():
        raise UserError(f"weights of {name}: {weights_path} does not exist; {hint}. Another place: extractor_path=PATH (of `ditscale stats`: --weights)")
    return Path(weights_path)


def read_state(weights_path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or a PyTorch file by name, on the CPU. Nothing but tensors is unpickled.

    Raises:
        UserError: it is neither.
    """
    try:
        if weights_path.suffix == ".safetensors":
            return load_file(weights_path)
        state = torch.load(weights_path, map_location="cpu", weights_only=True)
        return state.get("state_dict", state)
    except (OSError, RuntimeError, EOFError, AttributeError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise UserError(f"{weights_path}: contains no weights: {_brief(error)}") from None


def fill(name: str, module: Network, state: dict[str, Tensor], weights_path: Path) -> Network:
    """The module with these weights, for inference. Raises UserError if they are for another network."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{weights_path}: is not a {name}: {_brief(error)}") from None
    return module.requires_grad_(False).eval()


def state_sha256(module: nn.Module) -> str:
    """SHA-256 over the names, shapes, dtypes and values of a module's state."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

