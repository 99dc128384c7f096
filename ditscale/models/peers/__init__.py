"""Peers' weights as ditscale's: one module a peer, each with ``translate(state, heads)``; ``PEERS`` lists them.

A translation is exact: with the config keys that it returns, ditscale's model gives the peer's outputs to rounding.
"""

from typing import NamedTuple

from torch import Tensor


class Translated(NamedTuple):
    """A peer's weights under ditscale's names."""

    weights: dict[str, Tensor]                                                 # by the names of ditscale's state dict
    model: dict                                                                # keyword arguments of the model's constructor
    config: dict[str, object]                                                  # config keys under which the outputs are the peer's


PEERS: dict = {}                                                               # name -> translate(state, heads) -> Translated
