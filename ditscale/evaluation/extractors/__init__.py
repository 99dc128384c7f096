"""Feature networks by name; Frechet distances are computed from their features."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ditscale.device import full_fp32
from ditscale.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Features(NamedTuple):
    """A network's outputs for a batch of images; all fp32, on the network's device."""

    pooled: Tensor                                                             # (B, D)
    spatial: Tensor | None = None                                              # (B, S), for sFID; only from Inception
    logits: Tensor | None = None                                               # (B, classes), for the Inception Score


@dataclass(frozen=True)
class Extractor:
    """A feature network with its identity.

    ``module`` takes uint8 images (B, C, H, W) of any size that it accepts, resizes them by its own rule, and returns ``Features``.
    Called through this class it runs in full fp32, without TF32 or autocast.
    """

    name: str                                                                  # see ditscale.evaluation.metrics.names
    module: nn.Module
    sha256: str                                                                # of its weights
    dimensions: int | None                                                     # D; None: unknown before the first batch
    resize: str                                                                # the rule, in words, for the passport
    device: torch.device = torch.device("cpu")
    channels: tuple[int, ...] = (1, 3)                                         # accepted numbers; most networks repeat 1 to 3
    side: int | None = None                                                    # the only accepted height and width
    batch: int = 64                                                            # images per forward, fixed so that results never differ

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (B, C, H, W).

        Raises:
            UserError: the images are not uint8, or have a shape that the network does not accept.
        """
        if images.dtype != torch.uint8:
            raise UserError(f"{self.name} takes images of uint8, 0 to 255; these are {str(images.dtype).removeprefix('torch.')}")
        right_size = self.side is None or images.shape[2:] == (self.side, self.side)
        if images.ndim != 4 or images.shape[1] not in self.channels or not right_size:
            pixels = f" of {self.side} x {self.side} pixels" if self.side else ""
            channels = f"{' or '.join(map(str, self.channels))} channel{'s' * (tuple(self.channels) != (1,))}"
            raise UserError(f"{self.name} takes images{pixels} with {channels}; these are "
                            f"{tuple(images.shape[1:])}")
        with full_fp32(), torch.autocast(self.device.type, enabled=False):
            # contiguous strides, as they affect the choice of convolution algorithm and thereby the last digits
            return self.module(images.to(self.device).clone(memory_format=torch.contiguous_format))


def normalized(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] minus ImageNet's mean, divided by its standard deviation, per channel."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def as_rgb(images: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) to (B, 3, H, W); gray is repeated."""
    return images.expand(-1, 3, -1, -1)

