"""What a translation of a peer's weights gives."""

from typing import NamedTuple

from torch import Tensor

from ditscale.models.dit import DiT


class Translated(NamedTuple):
    """A peer's weights under ditscale's names."""

    weights: dict[str, Tensor]                                                 # by the names of ditscale's state dict
    model: dict                                                                # keyword arguments of the model's constructor
    config: dict[str, object]                                                  # dotted config keys that give the peer's outputs
    kind: type[DiT] = DiT                                                      # the model's class
