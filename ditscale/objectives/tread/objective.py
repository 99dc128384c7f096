"""TREAD (arXiv 2501.04765): the baseline's loss, of a pass in which some tokens skip a range of blocks."""

from torch import Tensor

from ditscale.models.masking import keep_lowest
from ditscale.objectives.objective import CleanBatch, Objective, Terms
from ditscale.objectives.tread import TreadConfig
from ditscale.objectives.variant import kept_tokens
from ditscale.randomness import Uniform


class Tread(Objective):
    """The formulation's loss over all tokens. The tokens that go through every block are drawn for each image of each step."""

    def __init__(self, *args, options: TreadConfig, tokens: int, **settings):
        super().__init__(*args, **settings)
        self.keep = kept_tokens(tokens, options.ratio)
        self.streams["token mask"] = Uniform(tokens)

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> Terms:
        noised = self.noised(batch, draws)
        return Terms(self.generative(self.run(model, noised, kept=keep_lowest(draws["token mask"], self.keep)), batch, noised))
