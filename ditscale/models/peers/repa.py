"""REPA (arXiv 2410.06940): SiT's backbone with ditscale's direction of time, an unscaled network time, and projectors for training."""

from torch import Tensor

from ditscale.models.peers.backbone import Translated, checked, sizes, without_second_half

PROJECTORS = "projectors."


def translate(state: dict[str, Tensor], heads: int) -> Translated:
    """REPA's state dict as ditscale's, without the projectors, which only training uses.

    The interpolant is not in the weights; REPA's default is the linear one, as ditscale's is.

    Raises:
        UserError: the weights are not a REPA's.
    """
    backbone = {key: value for key, value in state.items() if not key.startswith(PROJECTORS)}
    weights, model = without_second_half(backbone, sizes(backbone, heads, "REPA"))
    return Translated(checked(weights, model, "REPA"), model, {"formulation.name": "flow", "formulation.time_scale": 1.0})
