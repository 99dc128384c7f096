"""A teacher: an average of the student that also runs forward, in the precision of training."""

from torch import nn

from ditscale.training import zero
from ditscale.training.ema import ShardedEma


class Teacher(ShardedEma):
    """A sharded fp32 average, and ``model``, whose weights are that average rounded to the training precision.

    DeepSpeed never sees the teacher: no gradient, no optimizer state, no hook. Each rank averages what it owns; then the ranks
    exchange the rounded weights, as ZeRO does with the student's. It starts as the student is.

    Args:
        model: one of the student's architecture that nothing else uses; its weights are replaced.
    """

    def __init__(self, engine, model: nn.Module):
        super().__init__(engine)
        self.engine, self.model = engine, model.requires_grad_(False).eval()
        self.weights = zero.lend_weights(engine, self.model)

    def update(self, decay: float) -> None:
        super().update(decay)
        self.refresh()

    def refresh(self) -> None:
        """Bring the forward weights in line with the average. Collective; needed wherever ``flats`` are set from outside."""
        zero.share_weights(self.engine, self.flats, self.weights)
