"""DiT (arXiv 2212.09748): key names, time and outputs are ditscale's own under formulation ddpm."""

from torch import Tensor

from ditscale.errors import UserError
from ditscale.models.peers.backbone import Translated, checked, sizes


def translate(state: dict[str, Tensor], heads: int) -> Translated:
    """DiT's state dict as ditscale's.

    Raises:
        UserError: the weights are not a DiT's, or have no learned variance, which formulation ddpm needs.
    """
    model = sizes(state, heads, "DiT")
    if not model["learn_sigma"]:
        raise UserError(f"these weights put out {model['in_channels']} channels, without DiT's learned variance; formulation ddpm "
                        f"needs {2 * model['in_channels']}")
    return Translated(checked(dict(state), model, "DiT"), model, {"formulation.name": "ddpm"})
