"""The baseline: plain DiT training, one forward over all tokens."""

from torch import Tensor

from ditscale.objectives.objective import CleanBatch, Objective, Terms


class Baseline(Objective):
    """The formulation's loss, averaged over the batch."""

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> Terms:
        noised = self.noised(batch, draws)
        return Terms(self.generative(self.run(model, noised), batch, noised))
