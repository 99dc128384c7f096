"""Muon (Jordan et al. 2024) for the matrices of blocks, and torch's fused AdamW for all other parameters, on the flats of any ZeRO stage.

For a matrix W with gradient G::

    M <- momentum M + (1 - momentum) G
    U <- momentum M + (1 - momentum) G        (Nesterov; else U = M)
    W <- W - lr decay W - lr scale orthogonal(U)

``orthogonal`` moves all singular values near 1 by Newton-Schulz steps, which need the whole matrix: ``zero/matrices.py`` brings it to one
rank. ``SCALES`` are the scales. Gradients are clipped before, as they come; a step whose gradient is not finite changes nothing.

The class has no "muon" in its name: DeepSpeed would orthogonalize the flat gradients of such a class itself.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ditscale.training.zero.layout import Layout
from ditscale.training.zero.matrices import Exchange, Unsharded, matrices_of

COEFFICIENTS = 3.4445, -4.7750, 2.0315                                         # of X, A X and A A X with A = X X^T
EPS = 1e-7                                                                     # the least norm that is divided by, as in torch
AT_ONCE = 2**24                                                                # numbers of equal matrices in one batch of products;
AT_ONCE_ON_CPU = 2**18                                                         # there a matrix alone fills the units, and fits the cache
SCALES = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "match_rms": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),    # Moonlight (arXiv 2502.16982): the RMS of AdamW's steps
    "spectral": lambda rows, columns: math.sqrt(rows / columns),               # muP's condition (arXiv 2310.17813)
}


def newton_schulz(x: Tensor, steps: int) -> Tensor:
    """Matrices (B, R, C), R <= C, with their singular values moved near 1.

    After five steps those of a random R x 4R matrix are from .68 to 1.14, nine tenths of a square one's from .69 to 1.2, the rest below.
    """
    a, b, c = COEFFICIENTS
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32).clamp(min=EPS).to(x.dtype)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def orthogonalize(matrices: Iterable[Tensor], steps: int, dtype: torch.dtype) -> None:
    """Replaces each matrix by its ``newton_schulz``, computed in ``dtype``; equal shapes in batches."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for matrix in matrices:
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        by_shape.setdefault(wide.shape, []).append(wide)
    for shape, some in by_shape.items():
        count = max(1, (AT_ONCE_ON_CPU if some[0].device.type == "cpu" else AT_ONCE) // shape.numel())
        for first in range(0, len(some), count):
            batch = some[first:first + count]
            for matrix, result in zip(batch, newton_schulz(torch.stack(batch).to(dtype), steps), strict=True):
                matrix.copy_(result)


class OrthogonalizedMomentum(torch.optim.AdamW):
    """Muon for groups with ``whole`` true, AdamW for the others. Call ``bind`` before the first step.

    ``grad_scale`` and ``found_inf`` are those of torch's fused optimizers: the gradient is divided by the one, and if the other is 1 nothing
    changes. Neither waits for the device.

    Args:
        steps: of Newton-Schulz.
        scale: a function of SCALES.
        dtype: of the products.
        more: of AdamW.
    """

    def __init__(self, groups: list[dict], *, momentum: float, nesterov: bool, steps: int, scale, dtype: torch.dtype, **more):
        super().__init__(groups, **more)
        self.momentum, self.nesterov, self.ns_steps, self.scale, self.dtype = momentum, nesterov, steps, scale, dtype
        self.exchanges: dict[Tensor, Exchange] = {}

    def bind(self, layout: Layout | Unsharded, stacked) -> None:
        """Says which matrices the flats consist of; ``stacked`` as in ``matrices_of``."""
        self.exchanges = {flat: Exchange(matrices, layout.rank, layout.shards)
                          for flat, matrices in zip(layout.masters, matrices_of(layout, stacked), strict=True) if matrices}

    @torch.no_grad()
    def step(self, closure=None) -> None:
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["whole"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        self._step_whole([(p, group) for group in groups if group["whole"] for p in group["params"] if p.grad is not None])

    def _step_whole(self, flats: list[tuple[Tensor, dict]]) -> None:
        found_inf = getattr(self, "found_inf", None)
        updates = [self._momentum(p, found_inf).view(-1) for p, _ in flats]
        matrices = [self.exchanges[p].gather(update, self.dtype) for (p, _), update in zip(flats, updates, strict=True)]
        orthogonalize((one for some in matrices for one in some), self.ns_steps, self.dtype)
        taken = 1.0 if found_inf is None else 1 - found_inf
        for (p, group), update, some in zip(flats, updates, matrices, strict=True):
            exchange = self.exchanges[p]
            exchange.scatter(some, update, self.dtype)
            if exchange.mine:                                                  # else this rank has only padding
                torch._foreach_mul_([update[place.offset:place.offset + place.numel] for _, place in exchange.mine],
                                    [self.scale(one.rows, one.columns) for one, _ in exchange.mine])
            if group["weight_decay"]:
                p.mul_(1 - taken * (group["lr"] * group["weight_decay"]))
            p.sub_(update.view_as(p).mul_(taken * group["lr"]))

    def _momentum(self, p: Tensor, found_inf: Tensor | None) -> Tensor:
        """Updates a flat's momentum, and returns what is orthogonalized: a new tensor."""
        state, grad = self.state[p], p.grad
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        momentum = state["momentum_buffer"]
        if (grad_scale := getattr(self, "grad_scale", None)) is not None:
            grad = grad / grad_scale
        if found_inf is not None:
            grad = torch.where(found_inf > 0, momentum, grad)                  # momentum then stays as it is, whatever the gradient
        momentum.lerp_(grad, 1 - self.momentum)
        return grad.lerp(momentum, self.momentum) if self.nesterov else momentum.clone()
