"""Turns the teacher's logits into targets that do not collapse: a running center (DINO), or Sinkhorn-Knopp (SwAV, DINOv2)."""

import torch
import torch.distributed as dist
from torch import Tensor

SINKHORN_ROUNDS = 3                                                            # SwAV (arXiv 2006.09882)


class RunningMean:
    """Accumulates rows (of logits or targets) within a step for a running mean; the mean itself is the caller's tensor."""

    def __init__(self, momentum: float):
        self.momentum = momentum
        self.total: Tensor | None = None
        self.count = 0

    def collect(self, rows: Tensor) -> None:
        """Adds one micro batch (N, P)."""
        self.total = rows.sum(0) if self.total is None else self.total + rows.sum(0)
        self.count += len(rows)

    def update(self, mean: Tensor, mean_over_ranks) -> None:
        """``mean <- momentum mean + (1 - momentum) mean of the rows``, in place."""
        mean.lerp_(mean_over_ranks(self.total / self.count), 1 - self.momentum)
        self.total, self.count = None, 0


def sinkhorn(logits: Tensor) -> Tensor:
    """Targets (N, P) that use every prototype equally over the batch of all ranks (arXiv 2006.09882, App. A); rows sum to 1.

    It starts from the rows' softmax, which is finite at any temperature; the fixed point is the same.
    """
    plan = logits.softmax(-1)
    for _ in range(SINKHORN_ROUNDS):
        columns = plan.sum(0)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(columns)
        plan = plan / columns.clamp(min=1e-30)
        plan = plan / plan.sum(1, keepdim=True)
    return plan


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of (..., P), in nats."""
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)
