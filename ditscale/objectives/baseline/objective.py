"""The baseline: plain DiT training, one forward over all tokens."""

from torch import Tensor

from ditscale.objectives.objective import CleanBatch, Objective, Terms, named_means


class Baseline(Objective):
    """The formulation's loss, averaged over the batch."""

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> Terms:
        noisy, noise, t, labels = self.noised(batch, draws)
        output = model(*self.formulation.model_inputs(noisy, t), labels)
        return Terms(named_means("generative", self.formulation.loss(output, batch.images, noise, t)))
