"""SD-DiT's model (arXiv 2403.17004): MaskDiT's encoder and decoder with a [CLS] token and a projection head on the encoder.

``objectives/discriminative`` says which parts the paper's text confirms. Differences from ``masked.py``: no mask token; at
masked positions the decoder gets the raw, unencoded embeddings.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditscale.models.dit import Condition, run
from ditscale.models.layers import NORM_EPS
from ditscale.models.linear import Linear
from ditscale.models.masked import MaskedDiT
from ditscale.models.masking import gather, masked_indices, scatter


class Logits(NamedTuple):
    """Logits of [CLS] (B, P) and of the kept tokens (B, K, P) for P prototypes; None if a term is off."""

    cls: Tensor | None
    patch: Tensor | None


class DiscriminativeDiT(MaskedDiT):
    """The student; the teacher is an average of the same module and runs only ``discriminate``.

    Args:
        masks: whether tokens are ever masked; raw embeddings then have a projection into the decoder.
        head: hidden width, bottleneck and prototypes of the projection head, or None for no discriminative loss.
        discriminates: the tokens that the head is applied to: ([CLS], kept tokens).
        options: of ``MaskedDiT``.
    """

    training_only = ("raw_embed", "head")

    def __init__(self, *, masks: bool, head: tuple[int, int, int] | None, discriminates: tuple[bool, bool] = (True, True),
                 **options):
        super().__init__(mask_token=False, **options)
        self.discriminates = discriminates
        self.raw_embed = Linear(self.hidden_size, self.decoder_embed.linear.out_features) if masks else None
        if masks:
            nn.init.xavier_uniform_(self.raw_embed.weight)
            nn.init.zeros_(self.raw_embed.bias)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, self.hidden_size))
        self.head = ProjectionHead(self.hidden_size, *head) if head else None

    def encode(self, tokens: Tensor, condition: Condition, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens through all blocks, together with [CLS] and, for in-context, the condition's tokens."""
        some = [self.cls_token.expand(len(tokens), -1, -1)] + ([condition.tokens] if condition.tokens is not None else [])
        extra = torch.cat(some, dim=1)
        return run(self.blocks, tokens, extra, condition.c, self.where("rope", extra, kept))

    def forward(self, x: Tensor, t: Tensor, y: Tensor, kept: Tensor | None = None, *, with_logits: bool = False,
                detach: bool = False):
        """As ``MaskedDiT``; ``with_logits`` returns the image and the head's ``Logits``.

        ``detach`` stops the decoder's gradient at the encoder, so that only the head's loss trains the encoder.
        """
        condition, tokens = self.condition(t, y), self.embed(x)
        encoded, extra = self.encode(tokens if kept is None else gather(tokens, kept), condition, kept)
        logits = self.logits(encoded, extra) if with_logits else None
        if detach:
            encoded, extra = encoded.detach(), extra.detach()
            condition = Condition(condition.c.detach(), condition.tokens)
        output = self.decode(encoded, extra[:, 1:] if extra.shape[1] > 1 else None, condition, kept,
                             None if kept is None else self.raw(tokens.detach() if detach else tokens, kept))
        return (output, logits) if with_logits else output

    def raw(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """Raw embeddings for the decoder (B, T, W), used at masked positions; the others are overwritten by encoded tokens."""
        masked = masked_indices(kept, tokens.shape[1])
        values = self.raw_embed(gather(tokens, masked))
        return scatter(values, masked, values.new_zeros(len(tokens), tokens.shape[1], values.shape[-1]))

    def logits(self, encoded: Tensor, extra: Tensor) -> Logits:
        cls, patch = self.discriminates
        return Logits(self.head(extra[:, 0]) if cls else None, self.head(encoded) if patch else None)

    def discriminate(self, x: Tensor, t: Tensor, y: Tensor, kept: Tensor | None) -> Logits:
        """The teacher's pass: encodes all tokens, projects [CLS] and the tokens at ``kept``."""
        encoded, extra = self.encode(self.embed(x), self.condition(t, y))
        return self.logits(encoded if kept is None else gather(encoded, kept), extra)


class ProjectionHead(nn.Module):
    """DINO's head (arXiv 2104.14294). Tokens (..., H) to logits (..., prototypes): three linear layers with GELU between, L2 normalization, and a product with
    prototypes of unit length. A logit is the cosine between a token and a prototype, so temperatures do not depend on the width.

    A plain layer norm comes first: DINO's head follows ViT's last norm, but a DiT's encoder ends without one.
    """

    def __init__(self, hidden_size: int, head_hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.mlp = nn.Sequential(Linear(hidden_size, head_hidden), nn.GELU(), Linear(head_hidden, head_hidden), nn.GELU(),
                                 Linear(head_hidden, bottleneck))
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        directions = F.normalize(self.mlp(F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)).float(), dim=-1)
        prototypes = F.normalize(self.prototypes.float(), dim=-1)
        return directions @ prototypes.T
