"""The baseline: plain DiT training, one forward over all tokens."""

from torch import Tensor

from ditscale.diffusion.formulation import Formulation
from ditscale.objectives.objective import CleanBatch, named_means
from ditscale.randomness import Normal, Uniform


class Baseline:
    """The formulation's loss, averaged over the batch; labels are dropped to the null class with a fixed probability."""

    def __init__(self, formulation: Formulation, image_shape: tuple[int, int, int], *, num_classes: int,
                 class_dropout_prob: float):
        self.formulation = formulation
        self.null_class, self.class_dropout_prob = num_classes, class_dropout_prob
        self.streams = {"noise": Normal(image_shape), "noise level": Uniform(), "label drop": Uniform()}

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> dict[str, Tensor]:
        noise, t = draws["noise"], self.formulation.level(draws["noise level"][:, 0])
        noisy = self.formulation.add_noise(batch.images, noise, t)
        dropped = draws["label drop"][:, 0] < self.class_dropout_prob
        output = model(*self.formulation.model_inputs(noisy, t), batch.labels.masked_fill(dropped, self.null_class))
        return named_means("generative", self.formulation.loss(output, batch.images, noise, t))
