"""Two small helpers that every formulation uses."""

from torch import Tensor


def per_image(t: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return t[:, None, None, None]


def wide(values: Tensor) -> Tensor:
    """fp32 at least: loss and sampler arithmetic never run in the model's half precision. fp64 stays."""
    return values if values.element_size() == 8 else values.float()
