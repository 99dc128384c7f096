"""SiT (arXiv 2401.08740): DiT's backbone, with time from 0 (noise) to 1 (data), passed to the network unscaled, and the velocity in that time.

With f the frequencies of the embedder and t ditscale's time, from data to noise, the network is given 1 - t:

    cos((1 - t) f) = cos f cos(t f) + sin f sin(t f)        sin((1 - t) f) = sin f cos(t f) - cos f sin(t f)

So its first layer over (cos, sin) of 1 - t is another linear layer over (cos, sin) of t. The velocity in t is minus theirs, and so
the last linear layer changes its sign. Both are exact.
"""

import torch
from torch import Tensor

from ditscale.models.layers import sinusoid_frequencies
from ditscale.models.peers.backbone import Translated, checked, sizes, without_second_half

FIRST = "t_embedder.mlp.0.weight"
LAST = ("final_layer.linear.weight", "final_layer.linear.bias")


def translate(state: dict[str, Tensor], heads: int) -> Translated:
    """SiT's state dict as ditscale's. If it has 2 C output channels, the half that SiT discards is left out.

    The interpolant is not in the weights: SiT's released models use the linear one, ditscale's default; its GVP is ``cosine``.

    Raises:
        UserError: the weights are not a SiT's.
    """
    weights, model = without_second_half(dict(state), sizes(state, heads, "SiT"))
    weights = dict(checked(weights, model, "SiT"))
    weights[FIRST] = for_reversed_time(weights[FIRST])
    weights |= {key: -weights[key] for key in LAST}
    return Translated(weights, model, {"formulation.name": "flow", "formulation.time_scale": 1.0})


def for_reversed_time(weight: Tensor) -> Tensor:
    """The embedder's first weight (H, 256) for 1 - t, as the one for t; its own inverse. Computed in fp64."""
    frequencies = sinusoid_frequencies(weight.shape[1] // 2, weight.device).double()
    of_cos, of_sin = weight.double().chunk(2, dim=1)
    cos, sin = frequencies.cos(), frequencies.sin()
    return torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], dim=1).to(weight.dtype)
