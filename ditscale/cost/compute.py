"""Compute in closed form: multiply-adds (MACs) of each part of a DiT, and the FLOPs of training it.

The DiT papers' "Gflops" are multiply-adds counted once, so they are GMACs here: DiT-XL/2 at 32x32x4 takes 118.6. 1 MAC = 2 FLOPs.
Elementwise work (norms, activations, softmax) is not counted, as in the papers.
"""

from dataclasses import dataclass

from ditscale.models.sizes import ModelName, token_grid

FLOPS_PER_MAC = 2
FORWARDS_PER_TRAINED_STEP = 3                                                  # the backward takes twice the forward


@dataclass(frozen=True)
class ComputeCard:
    """Tokens, trainable parameters, and MACs of one image's forward by part."""

    tokens: int
    parameters: int
    macs_by_part: dict[str, int]

    @property
    def macs(self) -> int:
        """MACs of one image's forward."""
        return sum(self.macs_by_part.values())

    @property
    def train_flops_per_image(self) -> int:
        """FLOPs of one image's forward and backward."""
        return FLOPS_PER_MAC * FORWARDS_PER_TRAINED_STEP * self.macs


def compute_card(model: ModelName, *, resolution: int, channels: int, classes: int, class_dropout_prob: float = 0.1,
                 learn_sigma: bool = True) -> ComputeCard:
    """The card of an adaLN-Zero DiT on ``resolution`` x ``resolution`` x ``channels`` inputs.

    With H hidden size, T tokens, p patch size (MLP ratio 4): a block takes 12 H^2 T for its matrices, 2 T^2 H for attention
    and 6 H^2, once an image, for its modulation.
    """
    hidden, depth, patch = model.dims.hidden_size, model.dims.depth, model.patch_size
    tokens = token_grid(resolution, patch) ** 2
    patch_values = patch * patch * channels
    outputs = patch_values * (2 if learn_sigma else 1)
    macs = {
        "patchify": tokens * patch_values * hidden,
        "conditioning": 256 * hidden + hidden * hidden + depth * 6 * hidden * hidden + 2 * hidden * hidden,
        "attention": depth * (4 * hidden * hidden * tokens + 2 * tokens * tokens * hidden),
        "mlp": depth * 8 * hidden * hidden * tokens,
        "head": tokens * hidden * outputs,
    }
    block_parameters = 18 * hidden * hidden + (3 + 1 + 4 + 1 + 6) * hidden       # qkv, proj, fc1, fc2, modulation and biases
    parameters = (
        depth * block_parameters
        + (patch_values + 1) * hidden                                            # patchify
        + (256 + 1) * hidden + (hidden + 1) * hidden                             # timestep MLP
        + (classes + (class_dropout_prob > 0)) * hidden                          # label table
        + 2 * (hidden + 1) * hidden + (hidden + 1) * outputs                     # final modulation and head
    )
    return ComputeCard(tokens, parameters, macs)
