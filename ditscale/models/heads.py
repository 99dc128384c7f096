"""The projection head of the discriminative variant, in DINO's form (arXiv 2104.14294)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditscale.models.blocks.modules import NORM_EPS
from ditscale.models.layers import Linear


class ProjectionHead(nn.Module):
    """Tokens (..., H) to logits (..., prototypes): three linear layers with GELU between, L2 normalisation, and a product with
    prototypes of unit length. A logit is the cosine between a token and a prototype, so temperatures mean the same at any width.

    A plain layer norm comes first: DINO's head sits behind ViT's last norm, and a DiT's encoder ends without one.
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
