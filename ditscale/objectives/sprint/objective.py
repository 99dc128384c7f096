"""SPRINT (arXiv 2510.21986): the baseline's loss, of a pass whose middle blocks see few tokens, and for some images count for nothing."""

from torch import Tensor

from ditscale.models.masking import keep_lowest
from ditscale.objectives.objective import CleanBatch, Objective, Terms
from ditscale.objectives.sprint import SprintConfig
from ditscale.objectives.variant import kept_tokens
from ditscale.randomness import Uniform


class Sprint(Objective):
    """The formulation's loss over all tokens. Tokens, and images whose sparse path is dropped, are drawn for each image of each step; the
    path is dropped in the unmasked last stage too, as in the released code."""

    def __init__(self, *args, options: SprintConfig, tokens: int, **settings):
        super().__init__(*args, **settings)
        self.options, self.tokens = options, tokens
        self.keep = kept_tokens(tokens, options.mask_ratio)
        if options.mask_ratio:
            self.streams["token mask"] = Uniform(tokens)
        if options.path_drop:
            self.streams["path drop"] = Uniform()

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> Terms:
        noised, left_out = self.noised(batch, draws), {}
        keep = kept_tokens(self.tokens, self.options.ratio_at(batch.images_seen, self.images))
        if keep < self.tokens:
            left_out["kept"] = keep_lowest(draws["token mask"], keep)
        if self.options.path_drop:
            left_out["dropped"] = draws["path drop"][:, 0] < self.options.path_drop
        return Terms(self.generative(self.run(model, noised, **left_out), batch, noised))
