"""The user's own feature network, ``package.module:name``: an ``nn.Module``, or a class or function that makes one."""

import importlib

import torch
from torch import Tensor, nn

from ditscale.errors import UserError
from ditscale.evaluation.extractors import Extractor, Features
from ditscale.evaluation.extractors.pretrained import fill, read_state, required, state_sha256


def make_custom(name: str, weights_path=None, device="cpu") -> Extractor:
    """The network maps uint8 images (B, C, H, W) to features (B, D), as torchmetrics' FID wants it, or to ``Features``.

    ``weights_path``, where given, is a state dict for it. Attributes of the network that count where it has them:
    ``dimensions`` (D) and ``resize`` (its rule, in words). Its identity is the hash of its state: code is not hashed.

    Raises:
        UserError: there is no such network, or the weights are not its own.
    """
    module = _network(name)
    if weights_path is not None:
        path = required(name, weights_path, "leave it out where the network loads its own")
        fill(name, module, read_state(path), path)
    module.requires_grad_(False).eval()
    return Extractor(name, Wrapped(name, module).to(device), state_sha256(module), getattr(module, "dimensions", None),
                     getattr(module, "resize", "its own"), torch.device(device))


class Wrapped(nn.Module):
    """Gives ``Features`` whatever form the network's answer has."""

    def __init__(self, name: str, network: nn.Module):
        super().__init__()
        self.name, self.network = name, network

    def forward(self, images: Tensor) -> Features:
        answer = self.network(images)
        features = answer if isinstance(answer, Features) else Features(answer)
        if not isinstance(features.pooled, Tensor) or features.pooled.ndim != 2 or len(features.pooled) != len(images):
            got = tuple(getattr(features.pooled, "shape", ())) or type(features.pooled).__name__
            raise UserError(f"{self.name} gives {got} for {len(images)} images; features of shape ({len(images)}, D) are needed")
        return Features(*(part if part is None else part.float() for part in features))


def _network(name: str) -> nn.Module:
    """The module under the name, made where it is a class or a function."""
    where, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(where), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"feature network {name}: {error}; name it as package.module:name, importable from here") from None
    network = found if isinstance(found, nn.Module) or not callable(found) else found()
    if not isinstance(network, nn.Module):
        raise UserError(f"feature network {name} is a {type(network).__name__}; a torch.nn.Module is needed, or a function that "
                        "makes one")
    return network
