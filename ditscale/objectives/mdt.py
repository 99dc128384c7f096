"""MDT (arXiv 2303.14389): the generative loss of a full and of a masked pass, weights 1 to 1."""

import torch
from torch import Tensor

from ditscale import randomness
from ditscale.models.masking import keep_lowest
from ditscale.objectives.objective import CleanBatch, Objective, Terms, named_means
from ditscale.objectives.options import MdtConfig, kept_tokens
from ditscale.randomness import Uniform


class MaskedDiffusion(Objective):
    """Both passes see the same noisy images; both losses are over all tokens.

    With ``mask_ratio_max`` (MDTv2) the ratio is drawn once a step, by the images seen before it: the same on every rank.
    """

    def __init__(self, *args, options: MdtConfig, tokens: int, seed: int, **settings):
        super().__init__(*args, **settings)
        self.options, self.tokens, self.seed = options, tokens, seed
        self.streams["token mask"] = Uniform(tokens)

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> Terms:
        noisy, noise, t, labels = self.noised(batch, draws)
        inputs = self.formulation.model_inputs(noisy, t)
        kept = keep_lowest(draws["token mask"], kept_tokens(self.tokens, self.ratio(batch.images_seen)))
        losses = {}
        for name, places in (("generative_full", None), ("generative_masked", kept)):
            output = model(*inputs, labels, kept=places)
            losses |= named_means(name, self.formulation.loss(output, batch.images, noise, t))
        return Terms(losses)

    def ratio(self, images_seen: int) -> float:
        """The mask ratio of the step that follows ``images_seen``."""
        low, high = self.options.mask_ratio, self.options.mask_ratio_max
        if high is None:
            return low
        drawn = randomness.draw(self.seed, torch.tensor([images_seen]), {"mask ratio": Uniform()})["mask ratio"].item()
        return low + drawn * (high - low)
