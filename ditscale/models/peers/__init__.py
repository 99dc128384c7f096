"""Converts weights of other projects: one module per project, each with ``translate(state, heads)``; ``PEERS`` lists them.

A translation is exact: with the config keys that it returns, ditscale's model gives the peer's outputs to rounding.
"""

from ditscale.models.peers import dit, maskdit, mdt, repa, sit
from ditscale.models.peers.backbone import Translated

__all__ = ["PEERS", "Translated"]

# name -> translate(state, heads) -> Translated
PEERS = {"dit": dit.translate, "maskdit": maskdit.translate, "mdt": mdt.translate, "repa": repa.translate, "sit": sit.translate}
