"""A user's own feature network, ``package.module:name``: an ``nn.Module``, or a class or function that makes one."""

import importlib

import torch
from torch import Tensor, nn

from ditscale.errors import UserError, count
from ditscale.evaluation.extractors import Extractor, Features
from ditscale.evaluation.extractors.pretrained import fill, read_state, required, state_sha256


def make_custom(name: str, weights_path=None, device="cpu") -> Extractor:
    """The network maps uint8 images (B, C, H, W) to features (B, D), as for torchmetrics' FID, or to ``Features``.

    ``weights_path``, if given, is a state dict for it. Optional attributes of the network:
    ``dimensions`` (D) and ``resize`` (its rule, in words). Its identity is the hash of its state: code is not hashed.

    Raises:
        UserError: the network does not exist, or the weights do not fit it.
    """
    module = _network(name)
    if weights_path is not None:
        path = required(name, weights_path, "leave it out if the network loads its own")
        fill(name, module, read_state(path), path)
    module.requires_grad_(False).eval()
    return Extractor(name, Wrapped(name, module).to(device), state_sha256(module), getattr(module, "dimensions", None),
                     getattr(module, "resize", "its own"), torch.device(device))


class Wrapped(nn.Module):
    """Converts any accepted output of the network to ``Features``."""

    def __init__(self, name: str, network: nn.Module):
        super().__init__()
        self.name, self.network = name, network

    def forward(self, images: Tensor) -> Features:
        answer = self.network(images)
        features = answer if isinstance(answer, Features) else Features(answer)
        if not isinstance(features.pooled, Tensor) or features.pooled.ndim != 2 or len(features.pooled) != len(images):
            got = tuple(getattr(features.pooled, "shape", ())) or type(features.pooled).__name__
            raise UserError(f"{self.name} returns {got} for {count(len(images), 'image')}; it must return features of shape ({len(images)}, D)")
        return Features(*(part if part is None else part.float() for part in features))


def _network(name: str) -> nn.Module:
    """The module with this name, called if it is a class or a function."""
    where, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(where), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"feature network {name}: {error}; name it as package.module:name, importable from here") from None
    network = found if isinstance(found, nn.Module) or not callable(found) else found()
    if not isinstance(network, nn.Module):
        raise UserError(f"feature network {name} is a {type(network).__name__}; it must be a torch.nn.Module, or a function that "
                        "returns one")
    return network
