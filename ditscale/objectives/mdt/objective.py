"""MDT (arXiv 2303.14389): the generative loss of a full and of a masked pass, weights 1 to 1."""

import torch
from torch import Tensor

from ditscale import randomness
from ditscale.models.masking import keep_lowest
from ditscale.objectives.mdt import MdtConfig
from ditscale.objectives.objective import CleanBatch, Objective, Terms
from ditscale.objectives.variant import kept_tokens
from ditscale.randomness import Normal, Uniform

OWN = " of the masked pass"                                                    # suffix of streams that only the second pass reads


class MaskedDiffusion(Objective):
    """Both passes see the same images at the same levels, each with its own noise and label drops; both losses are over all
    tokens.

    The released code draws both again for the masked pass, which makes the gradient less noisy; ``shared_draws`` reuses those of
    the full pass, which are the same for every variant. With ``mask_ratio_max`` (MDTv2) the ratio is drawn once per step, by the images
    seen before it, so it is the same on every rank.
    """

    def __init__(self, *args, options: MdtConfig, tokens: int, seed: int, **settings):
        super().__init__(*args, **settings)
        self.options, self.tokens, self.seed = options, tokens, seed
        self.keep = kept_tokens(tokens, options.mask_ratio)
        self.streams["token mask"] = Uniform(tokens)
        if not options.shared_draws:
            self.streams |= {"noise" + OWN: Normal(self.image_shape), "label drop" + OWN: Uniform()}

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> Terms:
        full = masked = self.noised(batch, draws)
        if not self.options.shared_draws:
            masked = self.noised(batch, draws | {name: draws[name + OWN] for name in ("noise", "label drop")})
        kept = keep_lowest(draws["token mask"], kept_tokens(self.tokens, self.ratio(batch.images_seen)))
        losses: dict[str, Tensor] = {}
        for name, noised, places in (("generative_full", full, None), ("generative_masked", masked, kept)):
            losses |= self.generative(self.run(model, noised, kept=places), batch, noised, name)
        return Terms(losses)

    def ratio(self, images_seen: int) -> float:
        """The mask ratio of the step that follows ``images_seen``."""
        low, high = self.options.mask_ratio, self.options.mask_ratio_max
        if high is None:
            return low
        drawn = randomness.draw(self.seed, torch.tensor([images_seen]), {"mask ratio": Uniform()})["mask ratio"].item()
        return low + drawn * (high - low)
