"""muP and CompleteP: how initial weights, learning rates, eps, decay and branches follow a model's width and depth.

With one learning rate for all sizes, larger models take steps that are too large for them. Under muP (arXiv 2203.03466; for DiT
2505.15270) the best rate of a narrow model is that of a wide one; CompleteP (2505.01618) adds depth. The reference is a base size: a
model of base width (and base depth) is the standard one, bit for bit. For a width m times the base's and a depth l times:

===========  ==========================================  =================================  ==========  ============  =====
a matrix is  where its                                   standard deviation at the start    rate        eps           decay
===========  ==========================================  =================================  ==========  ============  =====
input        outputs alone follow the width              that of the base                   1           1             1
hidden       inputs and outputs do                       that of the base / sqrt(m)         1 / m       1 / (m l)     m
output       inputs alone do                             that of the base / m               1 / m       1             m
finite       neither does (a decoder of fixed width)     that of the base                   1           1             1
===========  ==========================================  =================================  ==========  ============  =====

Biases, gains, tokens and positions keep everything. Rates are Adam's. l counts for blocks of the trunk under CompleteP alone, whose
branches are divided by it. With gradient clipping, output matrices have the equivalent multiplier form: their inputs are divided by m, they start as at
the base, rate and decay stay and eps is divided by m; the norm of all gradients then does not depend on the width.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ditscale.errors import UserError
from ditscale.models.linear import Linear

if TYPE_CHECKING:
    from ditscale.models.blocks.modules import Block
    from ditscale.models.dit import DiT

TRUNK = re.compile(r"blocks\.")


@dataclass(frozen=True)
class Scale:
    """Factors of one parameter against the standard parametrization."""

    lr: float = 1.0
    eps: float = 1.0
    decay: float = 1.0
    multiplier: float = 1.0                                                    # of the matrix's inputs


@torch.no_grad()
def parametrize(model: "DiT", make_base: Callable[[], "DiT"], depth_ratio: Fraction, *, with_multipliers: bool) -> None:
    """Scales a model's initial weights, and sets ``scales``, multipliers of inputs and scales of branches.

    Args:
        model: with its initial weights.
        make_base: makes the model of the base width with the same depth; called on the meta device.
        depth_ratio: l; 1 where depth is not parametrized.
        with_multipliers: the multiplier form of output matrices.

    Raises:
        UserError: the base has other layers.
    """
    with torch.device("meta"):
        base = make_base()
    matrices = {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    before = {f"{name}.weight": layer for name, layer in base.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    if matrices.keys() != before.keys():
        raise UserError(f"model.base_width {base.hidden_size}: a model of this width has another decoder; set objective.decoder_depth, "
                        "decoder_width and decoder_heads")
    constant = {f"{name}.weight" for name, layer in _with_constant_deviation(model)}
    for name, layer in matrices.items():
        (fan_out, fan_in), (base_out, base_in) = (one.weight.flatten(1).shape for one in (layer, before[name]))
        m, follows = Fraction(fan_in, base_in), (fan_in != base_in, fan_out != base_out)
        # Xavier's variance is 2 / (inputs + outputs): already right for hidden matrices.
        variance = Fraction(1) if name in constant else Fraction(fan_in + fan_out, base_in + base_out)
        depth = depth_ratio if TRUNK.match(name) else Fraction(1)
        if follows == (True, True):
            variance /= m
            model.scales[name] = Scale(1 / float(m), 1 / float(m * depth), float(m))
        elif follows == (True, False) and with_multipliers and isinstance(layer, Linear):
            layer.input_scale = 1 / float(m)
            model.scales[name] = Scale(eps=1 / float(m), multiplier=1 / float(m))
        elif follows == (True, False):
            variance /= m**2
            model.scales[name] = Scale(lr=1 / float(m), decay=float(m))
        if variance != 1:
            layer.weight.mul_(sqrt(variance))
        if depth != 1 and name not in model.scales:
            model.scales[name] = Scale(eps=1 / float(depth))
    if depth_ratio != 1:
        for block in cast("list[Block]", model.blocks):
            block.branch_scale = 1 / float(depth_ratio)


def _with_constant_deviation(model: "DiT"):
    """The linear layers that start with a deviation of 0.02 at every width: the time's, and a projection head's."""
    head = getattr(model, "head", None)
    places = {"t_embedder": model.t_embedder, **({"head": head} if head is not None else {})}
    return [(f"{place}.{name}", layer) for place, module in places.items() for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear)]


@torch.no_grad()
def fold(model: "DiT") -> None:
    """Moves multipliers and branch scales into the weights: the same function, to rounding, as a standard model."""
    for layer in model.modules():
        if isinstance(layer, Linear) and layer.input_scale != 1:
            layer.weight.mul_(layer.input_scale)
            layer.input_scale = 1.0
    for block in cast("list[Block]", model.blocks):
        if block.branch_scale != 1:
            for last in block.branch_ends():
                last.weight.mul_(block.branch_scale)
                last.bias.mul_(block.branch_scale)
            block.branch_scale = 1.0
