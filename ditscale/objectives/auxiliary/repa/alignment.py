"""REPA's loss, and features brought to the model's grid of tokens."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ditscale.diffusion.formulation import wide
from ditscale.errors import UserError

if TYPE_CHECKING:
    from ditscale.objectives.auxiliary.loss import Seen


class Alignment:
    """The loss as a function of a micro batch; ``features`` gives (B, T', d) for it."""

    def __init__(self, features: "Callable[[Seen], Tensor]"):
        self.features = features

    def __call__(self, seen: "Seen") -> Tensor:
        assert seen.tokens is not None                                         # it has a tap
        return alignment(seen.tokens, on_grid(wide(self.features(seen)), seen.tokens.shape[1]))


def alignment(projected: Tensor, features: Tensor) -> Tensor:
    """Minus the mean over tokens and images of the cosine between (B, T, d) and (B, T, d)."""
    return -F.cosine_similarity(projected, features, dim=-1).mean()


def on_grid(features: Tensor, tokens: int) -> Tensor:
    """Features (B, T', d) at so many tokens of a square grid, in row order: (B, tokens, d). Another grid is resampled bilinearly, with antialiasing.

    Raises:
        UserError: T' is no square.
    """
    count = features.shape[1]
    if count == tokens:
        return features
    side, grid = math.isqrt(count), math.isqrt(tokens)
    if side * side != count:
        raise UserError(f"objective.with repa: the features have {count} tokens; give {tokens}, as the model has, or a square grid of them")
    image = features.transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(image, (grid, grid), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
