"""MaskDiT (arXiv 2306.09305): the generative loss on visible patches, and a weighted reconstruction of the masked ones."""

from torch import Tensor

from ditscale.diffusion.formulation import per_image
from ditscale.models.layers import patchify
from ditscale.models.masking import gather, keep_lowest, masked_indices
from ditscale.objectives.masked import MaskedConfig
from ditscale.objectives.objective import CleanBatch, Noised, Objective, Terms, named_means
from ditscale.objectives.variant import kept_tokens
from ditscale.randomness import Uniform


class Masked(Objective):
    """``L = mean over visible patches + reconstruction_weight * mean over masked patches``.

    The reconstruction's target is the noisy patch, normalized (mean 0, variance 1 over its values). It is compared with
    the signal part of the model's clean estimate, ``signal(t) x_0``: under edm that is D itself, as in the released code; under
    ddpm and flow the factor keeps it finite at almost pure noise.
    """

    def __init__(self, *args, options: MaskedConfig, patch_size: int, tokens: int, **settings):
        super().__init__(*args, **settings)
        self.options, self.patch_size, self.tokens = options, patch_size, tokens
        self.keep = kept_tokens(tokens, options.mask_ratio)
        if options.mask_ratio:
            self.streams["token mask"] = Uniform(tokens)

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> Terms:
        noised = self.noised(batch, draws)
        keep = kept_tokens(self.tokens, self.options.ratio_at(batch.images_seen, self.images))
        if keep == self.tokens:
            return Terms(self.generative(self.run(model, noised), batch, noised))
        kept = keep_lowest(draws["token mask"], keep)
        output = self.run(model, noised, kept=kept)
        terms = self.formulation.loss(output, batch.images, noised.noise, noised.t)
        losses = named_means("generative", self.trained_on(terms, kept))
        if self.options.reconstruction_weight:
            missing = masked_indices(kept, self.tokens)
            losses["reconstruction"] = self.options.reconstruction_weight * self.reconstruction(output, noised, missing)
        return Terms(losses)

    def trained_on(self, terms: dict[str, Tensor], kept: Tensor) -> dict[str, Tensor]:
        """The visible patches."""
        return {name: gather(self.patches(term), kept) for name, term in terms.items()}

    def reconstruction(self, output: Tensor, noised: Noised, missing: Tensor) -> Tensor:
        """Mean squared error over the missing patches (B, T - K)."""
        signal, _ = self.formulation.coefficients(noised.t)
        estimate, _ = self.formulation.predictions(output, noised.noisy, noised.t)
        target, predicted = (gather(self.patches(x), missing) for x in (noised.noisy, per_image(signal) * estimate))
        normalized = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (predicted - normalized).square().mean()

    def patches(self, x: Tensor) -> Tensor:
        """(B, C, S, S) to (B, T, C * p * p)."""
        return patchify(x, self.patch_size)
