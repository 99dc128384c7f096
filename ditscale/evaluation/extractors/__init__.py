"""Feature networks, by name: what a Frechet distance is measured in."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Features(NamedTuple):
    """What a network says of a batch of images; all fp32, on the network's device."""

    pooled: Tensor                                                             # (B, D)
    spatial: Tensor | None = None                                              # (B, S), for sFID; Inception alone has it
    logits: Tensor | None = None                                               # (B, classes), for the Inception Score


@dataclass(frozen=True)
class Extractor:
    """A feature network with its identity.

    ``module`` takes uint8 images (B, C, H, W) of any size that it serves, resizes them by its own rule, and returns ``Features``.
    """

    name: str                                                                  # see ditscale.evaluation.names
    module: nn.Module
    sha256: str                                                                # of its weights
    dimensions: int                                                            # D
    resize: str                                                                # the rule, in words, for the passport
    batch: int = 64                                                            # images a forward: fixed, so that sums never differ

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        return self.module(images)
