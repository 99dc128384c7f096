"""Compute in closed form: multiply-adds (MACs) of each part of a DiT, and the FLOPs of training it.

The DiT papers' "Gflops" are multiply-adds counted once, so they are GMACs here: DiT-XL/2 at 32x32x4 takes 118.6. 1 MAC = 2 FLOPs.
Elementwise work (norms, activations, softmax) is not counted. The paper's own counter adds a little for it: its figures are
0.01 to 0.02 % above ours at XL/2 (adaLN-Zero 118.64 to 118.62, in-context 119.37 to 119.35).

This file has the pieces of models, and the plain DiT. It is part of the models, below ``objectives`` and ``cost``: a
block design counts its own blocks (``blocks``), a training variant builds its card from these pieces
(``objectives/<variant>``), and ``cost`` uses both. No torch here.
"""

import functools
from dataclasses import dataclass, field

from ditscale.errors import UserError, did_you_mean
from ditscale.models.blocks import DEFAULT_DESIGN, DESIGNS
from ditscale.models.blocks.design import BlockDesign
from ditscale.models.matrices import LAST_LAYER, MODULATION, WeightMatrix, repeated
from ditscale.models.sizes import ModelName, token_grid
from ditscale.models.switches import Switches

FLOPS_PER_MAC = 2
FORWARDS_PER_TRAINED_STEP = 3                                                  # the backward takes twice as much as the forward
FREQUENCIES = 256                                                              # of the timestep's sinusoid

Parts = dict[str, int]                                                         # MACs of one image by part


def added(*parts: Parts) -> Parts:
    """The sum per part."""
    total: Parts = {}
    for some in parts:
        for name, macs in some.items():
            total[name] = total.get(name, 0) + macs
    return total


@dataclass(frozen=True)
class ComputeCard:
    """Tokens, trainable parameters, and MACs per image by part, for sampling and for training.

    ``macs_by_part`` is a forward at inference and ``inference_parameters`` the parameters it uses. ``trained_macs_by_part`` is the
    part of a training step's forward with a backward pass, ``forward_only_macs_by_part`` the part without (a teacher).
    """

    tokens: int
    parameters: int
    inference_parameters: int
    macs_by_part: Parts
    trained_macs_by_part: Parts
    forward_only_macs_by_part: Parts = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """MACs of one image's forward at inference."""
        return sum(self.macs_by_part.values())

    @property
    def flops(self) -> int:
        """FLOPs of one image's forward at inference."""
        return FLOPS_PER_MAC * self.macs

    @property
    def train_macs_per_image(self) -> int:
        """MACs of training on one image, the backward included."""
        return FORWARDS_PER_TRAINED_STEP * sum(self.trained_macs_by_part.values()) + sum(self.forward_only_macs_by_part.values())

    @property
    def train_flops_per_image(self) -> int:
        """FLOPs of training on one image, the backward included."""
        return FLOPS_PER_MAC * self.train_macs_per_image


@dataclass(frozen=True)
class Blocks:
    """A stack of equal blocks of one design; their condition may have another width."""

    depth: int
    width: int
    heads: int
    condition_width: int
    design: str
    switches: Switches

    def macs(self, tokens: int) -> Parts:
        """MACs over ``tokens`` tokens of an image; the design may add tokens."""
        design = DESIGNS[self.design]
        one = design.macs(self.width, self.condition_width, tokens + design.added_tokens, self.switches)
        return {name: self.depth * macs for name, macs in one.items()}

    @property
    def parameters(self) -> int:
        mixes = self.switches.value_residual * max(self.depth - 1, 0)          # a number per block after the first
        return self.depth * DESIGNS[self.design].parameters(self.width, self.condition_width, self.heads, self.switches) + mixes

    @property
    def matrices(self) -> list[WeightMatrix]:
        return repeated(DESIGNS[self.design].matrices(self.width, self.condition_width, self.switches), self.depth)


@dataclass(frozen=True)
class Backbone:
    """A DiT's pieces for inputs of one shape, from which all variants are built."""

    model: ModelName
    grid: int                                                                  # tokens per side
    patch_values: int                                                          # input numbers per token
    outputs: int                                                               # output numbers per token
    label_rows: int
    design: str
    switches: Switches

    @property
    def width(self) -> int:
        return self.model.dims.hidden_size

    @property
    def tokens(self) -> int:
        return self.grid**2

    @property
    def block_design(self) -> BlockDesign:
        return DESIGNS[self.design]

    @property
    def added_tokens(self) -> int:
        """Tokens that the blocks process in addition to the image's."""
        return self.block_design.added_tokens

    def blocks(self, depth: int | None = None, width: int | None = None, heads: int | None = None) -> Blocks:
        """Blocks with this model's condition; by default with its depth, width and heads."""
        dims = self.model.dims
        return Blocks(depth if depth is not None else dims.depth, width or dims.hidden_size, heads or dims.num_heads, self.width,
                      self.design, self.switches)

    def embed_macs(self) -> Parts:
        """Patches to tokens, and the timestep's MLP."""
        bottleneck = self.switches.patch_bottleneck
        per_token = self.patch_values * self.width if bottleneck is None else bottleneck * (self.patch_values + self.width)
        return {"patchify": self.tokens * per_token, "conditioning": FREQUENCIES * self.width + self.width**2}

    @property
    def embed_parameters(self) -> int:
        """Parameters of ``embed_macs``'s layers and of the label table."""
        bottleneck = self.switches.patch_bottleneck
        patches = self.patch_values * self.width if bottleneck is None else bottleneck * (self.patch_values + self.width)
        return patches + (1 + FREQUENCIES + 1 + self.width + 1 + self.label_rows) * self.width

    def norm_macs(self, width: int) -> Parts:
        """A norm of ``width`` outside the blocks: shift and scale come from the condition in the designs with modulation."""
        return {"conditioning": 2 * self.width * width if DESIGNS[self.design].modulated else 0}

    def norm_parameters(self, width: int) -> int:
        return 2 * width * (self.width + 1) if DESIGNS[self.design].modulated else self.switches.affine_vectors * width

    def norm_matrices(self, width: int) -> list[WeightMatrix]:
        return [WeightMatrix(MODULATION, 2 * width, self.width)] if DESIGNS[self.design].modulated else []

    def final_macs(self, width: int) -> Parts:
        """The final layer after blocks of ``width``."""
        return added(self.norm_macs(width), {"head": self.tokens * width * self.outputs})

    def final_parameters(self, width: int) -> int:
        return self.norm_parameters(width) + (width + 1) * self.outputs

    def final_matrices(self, width: int) -> list[WeightMatrix]:
        return [WeightMatrix(LAST_LAYER, self.outputs, width), *self.norm_matrices(width)]


def make_backbone(model: ModelName, *, resolution: int, channels: int, classes: int, class_dropout_prob: float = 0.1,
                  learn_sigma: bool = True, block: str = DEFAULT_DESIGN, **switches) -> Backbone:
    """A DiT on ``resolution`` x ``resolution`` x ``channels`` inputs (latents: 32 x 32 x 4 for 256-pixel images); ``switches`` are fields of
    ``Switches``.

    Raises:
        UserError: the patch size does not divide the resolution, or the block design is unknown.
    """
    if block not in DESIGNS:
        raise UserError(f"no block design '{block}'{did_you_mean(block, DESIGNS) or '.'} Designs: {', '.join(DESIGNS)}")
    patch_values = model.patch_size**2 * channels
    return Backbone(model, token_grid(resolution, model.patch_size), patch_values, patch_values * (2 if learn_sigma else 1),
                    classes + (class_dropout_prob > 0), block, Switches(**switches))


@functools.lru_cache(maxsize=256)                                              # a plan calls this thousands of times per model
def plain_card(backbone: Backbone) -> ComputeCard:
    """The card of a plain DiT: its training forward is its sampling forward. The fixed position embedding is not a parameter."""
    width, blocks = backbone.width, backbone.blocks()
    macs = added(backbone.embed_macs(), blocks.macs(backbone.tokens), backbone.final_macs(width))
    parameters = backbone.embed_parameters + blocks.parameters + backbone.final_parameters(width)
    return ComputeCard(backbone.tokens, parameters, parameters, macs, macs)
