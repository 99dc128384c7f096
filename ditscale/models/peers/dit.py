"""DiT (arXiv 2212.09748): key names, time and outputs are ditscale's own under formulation ddpm."""

from torch import Tensor

from ditscale.models.peers.backbone import Translated, check_variance, checked, sizes


def translate(state: dict[str, Tensor], heads: int) -> Translated:
    """DiT's state dict as ditscale's.

    Raises:
        UserError: the weights are not a DiT's, or have no learned variance, which formulation ddpm needs.
    """
    model = sizes(state, heads, "DiT")
    check_variance(model, "DiT")
    return Translated(checked(dict(state), model, "DiT"), model, {"formulation.name": "ddpm"})
