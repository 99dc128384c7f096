"""How far a step moves the weights, and how far the average is from them, relative to the weights; measured at log steps.

A learning rate that is too high shows in the first before it shows in the loss; compare runs of different size by it. Both are computed on
this rank's flats, on the device, from at most ``MOST`` evenly spaced weights of each parameter, which are the same for any ranks and stage.
"""

import math

import torch
from torch import Tensor

from ditscale.training.guard import fp32_norms
from ditscale.training.zero.layout import Layout, Piece

MOST = 16384
KINDS = {"modulation": ("adaLN_modulation",), "attention": (".attn.", ".cross_attn."), "mlp": (".mlp.fc", ".mlp.gate_up"),
         "output": ("final_layer.linear",), "embedding": ("embed", "cls_token", "mask_token")}
OTHER = "other"
UPDATE, EMA = "update/", "ema_distance"


def kind_of(name: str) -> str:
    """The kind of a parameter, by its name in the model."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER)


class Movement:
    """Call ``before`` ahead of a step that will be logged and ``after`` when the average has followed it.

    Args:
        average: the flats of the average, in the layout's order.
    """

    def __init__(self, layout: Layout, average: list[Tensor]):
        self.flats, self.average = layout.masters, average
        samples = [sample for piece in layout.mine if (sample := _sample(piece, layout.shapes[piece.name].numel()))]
        self.places = [(piece.group, place) for piece, place, _ in samples]
        self.kinds = sorted({kind_of(name) for name in layout.shapes})         # the same on every rank
        weights = torch.zeros(len(self.kinds), len(samples), 1)
        for index, (piece, _, weight) in enumerate(samples):
            weights[self.kinds.index(kind_of(piece.name)), index] = weight
        self.weights = weights.to(layout.masters[0].device)
        self.former: list[Tensor] = []

    @torch.no_grad()
    def before(self) -> None:
        """Keeps the sampled weights."""
        self.former = [part.clone() for part in self._sampled(self.flats)]

    @torch.no_grad()
    def after(self) -> dict[str, tuple[Tensor, Tensor]]:
        """This rank's sums of squares by name, of the distance and of the weights; empty without a ``before``. Does not wait for the device.

        Added up over the ranks, the root of their ratio is the RMS of the distance relative to that of the weights.
        """
        if not self.former:
            return {}
        weights, average = self._sampled(self.flats), self._sampled(self.average)
        squares = [fp32_norms(parts).square() for parts in (torch._foreach_sub(weights, self.former), torch._foreach_sub(average, weights), weights)]
        self.former = []
        steps, distances, sizes = (self.weights * torch.stack(squares, 1)).sum(1).unbind(1)
        by_kind = {f"{UPDATE}{kind}": (step, size) for kind, step, size in zip(self.kinds, steps, sizes, strict=True)}
        return {**by_kind, EMA: (distances.sum(), sizes.sum())}

    def _sampled(self, flats: list[Tensor]) -> list[Tensor]:
        return [flats[group].detach().view(-1)[place] for group, place in self.places]


def stride_of(numel: int, most: int) -> int:
    """The distance between evenly spaced elements of a parameter, of which there are at most ``most``."""
    stride = -(-numel // most)
    while math.gcd(stride, numel) > 1:                                         # else it might meet the same columns of a matrix in each row
        stride += 1
    return stride


def _sample(piece: Piece, numel: int) -> tuple[Piece, slice, float] | None:
    """The sampled elements of a piece, in its flat, and how many weights each is counted for; None if there are none in this piece."""
    stride = stride_of(numel, MOST)
    first = -piece.start % stride
    if first >= piece.numel:
        return None
    return piece, slice(piece.offset + first, piece.offset + piece.numel, stride), numel / -(-numel // stride)

