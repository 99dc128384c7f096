"""Compute in closed form: multiply-adds (MACs) of each part of a DiT, and the FLOPs of training it.

The DiT papers' "Gflops" are multiply-adds counted once, so they are GMACs here: DiT-XL/2 at 32x32x4 takes 118.6. 1 MAC = 2 FLOPs.
Elementwise work (norms, activations, softmax) is not counted. The paper's own counter adds a little for it: its figures lie
0.01 to 0.02 % above ours at XL/2 (adaLN-Zero 118.64 to 118.62, in-context 119.37 to 119.35).
"""

from dataclasses import dataclass

from ditscale.errors import UserError, did_you_mean
from ditscale.models.sizes import BLOCK_DESIGNS, MODULATED, ModelName, token_grid

FLOPS_PER_MAC = 2
FORWARDS_PER_TRAINED_STEP = 3                                                  # the backward takes twice the forward
CONDITION_TOKENS = 2                                                           # in-context: time and class


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
    def flops(self) -> int:
        """FLOPs of one image's forward."""
        return FLOPS_PER_MAC * self.macs

    @property
    def train_flops_per_image(self) -> int:
        """FLOPs of one image's forward and backward."""
        return FORWARDS_PER_TRAINED_STEP * self.flops


def compute_card(model: ModelName, *, resolution: int, channels: int, classes: int, class_dropout_prob: float = 0.1,
                 learn_sigma: bool = True, block: str = "adaln_zero", qk_norm: bool = False) -> ComputeCard:
    """The card of a DiT on ``resolution`` x ``resolution`` x ``channels`` inputs (latents: 32 x 32 x 4 for 256-pixel images).

    With H hidden size, T tokens, MLP ratio 4, a block takes 12 H^2 T for its matrices and 2 T^2 H for attention, and

    - adaLN(-Zero): 4 (6) H^2, once an image, for its modulation;
    - cross-attention: 2 H^2 T for queries and projection, 4 H^2 for two keys and values, 4 T H for the attention itself;
    - in-context: all of it over T + 2 tokens.

    Raises:
        UserError: the patch size does not divide the resolution, or there is no such block.
    """
    if block not in BLOCK_DESIGNS:
        raise UserError(f"no block design '{block}'{did_you_mean(block, BLOCK_DESIGNS)} Designs: {', '.join(BLOCK_DESIGNS)}")
    hidden, depth, patch = model.dims.hidden_size, model.dims.depth, model.patch_size
    tokens = token_grid(resolution, patch) ** 2
    patch_values = patch * patch * channels
    outputs = patch_values * (2 if learn_sigma else 1)
    processed = tokens + (CONDITION_TOKENS if block == "in_context" else 0)
    vectors = {"adaln_zero": 6, "adaln": 4}.get(block, 0)                      # modulation vectors of a block
    final_vectors = 2 if block in MODULATED else 0
    square = hidden * hidden
    macs = {
        "patchify": tokens * patch_values * hidden,
        "conditioning": 256 * hidden + square + (depth * vectors + final_vectors) * square,
        "attention": depth * (4 * square * processed + 2 * processed * processed * hidden),
        "mlp": depth * 8 * square * processed,
        "head": tokens * hidden * outputs,
    }
    if block == "cross_attention":
        macs["cross_attention"] = depth * (2 * square * tokens + 4 * square + 4 * tokens * hidden)
    return ComputeCard(tokens, _parameters(model, block, qk_norm, vectors, final_vectors, patch_values, outputs,
                                           classes + (class_dropout_prob > 0)), macs)


def _parameters(model: ModelName, block: str, qk_norm: bool, vectors: int, final_vectors: int, patch_values: int, outputs: int,
                label_rows: int) -> int:
    """Trainable parameters; the fixed position table is not one."""
    hidden, depth, heads = model.dims.hidden_size, model.dims.depth, model.dims.num_heads
    square, attentions = hidden * hidden, 2 if block == "cross_attention" else 1
    norms = 0 if block in MODULATED else attentions + 1                        # affine norms of a block
    per_block = (12 * square + 9 * hidden                                      # qkv, proj, fc1, fc2 and their biases
                 + (attentions - 1) * (4 * square + 4 * hidden)                # cross-attention: q, kv, proj
                 + vectors * (square + hidden) + norms * 2 * hidden
                 + qk_norm * attentions * 2 * hidden // heads)
    ends = ((patch_values + 1) * hidden                                        # patchify
            + (256 + 1) * hidden + square + hidden                             # timestep MLP
            + label_rows * hidden
            + final_vectors * (square + hidden) + (0 if final_vectors else 2 * hidden)
            + (hidden + 1) * outputs)
    return depth * per_block + ends
