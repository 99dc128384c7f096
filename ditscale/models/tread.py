"""TREAD's model (arXiv 2501.04765): a plain DiT in which some tokens skip a range of blocks in training. No parameters of its own."""

from torch import Tensor

from ditscale.models.dit import Condition, DiT, run
from ditscale.models.masking import gather, scatter


class RoutedDiT(DiT):
    """A DiT with a route around blocks ``start`` to ``end``, counted from 0, both included. Without ``kept`` (sampling) it is the DiT itself.

    Args:
        options: of ``DiT``.
    """

    def __init__(self, *, start: int, end: int, **options):
        super().__init__(**options)
        self.start, self.end = start, end

    def encode(self, tokens: Tensor, condition: Condition, kept: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, T, H) through all blocks. On the route only those at ``kept`` (B, K) go through the blocks, together with the extra
        tokens; the others come back to their places unchanged."""
        if kept is None:
            return super().encode(tokens, condition)
        before, around, after = self.blocks[:self.start], self.blocks[self.start:self.end + 1], self.blocks[self.end + 1:]
        everywhere, on_route = (self.where("rope", condition.tokens, some) for some in (None, kept))
        tokens, extra = run(before, tokens, condition.tokens, condition.c, everywhere)
        through, extra = run(around, gather(tokens, kept), extra, condition.c, on_route)
        return run(after, scatter(through, kept, onto=tokens), extra, condition.c, everywhere)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, kept: Tensor | None = None) -> Tensor:
        """As ``DiT``; ``kept`` (B, K) are the indices of the tokens that take no shortcut; None: all."""
        condition = self.condition(t, y)
        tokens, _ = self.encode(self.embed(x), condition, kept)
        return self.to_image(tokens, condition.c)
