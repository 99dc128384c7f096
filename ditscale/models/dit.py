"""The diffusion transformer backbone (arXiv 2212.09748): patches in, blocks under a condition, patches out.

Variants are subclasses with additions between ``encode`` and ``final_layer`` (``masked.py``, ``mdt.py``,
``discriminative.py``). With one seed they all start from the same encoder weights.
"""

from typing import TYPE_CHECKING, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from ditscale.errors import UserError, did_you_mean
from ditscale.models import rope
from ditscale.models.blocks import DEFAULT_DESIGN, DESIGNS
from ditscale.models.blocks.modules import Modulation, modulate
from ditscale.models.layers import BottleneckPatchEmbed, LabelEmbedder, PatchEmbed, TimestepEmbedder, affine_norm, sincos_position_table, unpatchify
from ditscale.models.linear import Linear
from ditscale.models.sizes import parse_model_name, token_grid
from ditscale.models.switches import Switches

if TYPE_CHECKING:
    from ditscale.models.blocks.modules import Block
    from ditscale.models.parametrization import Scale


class Condition(NamedTuple):
    """Time and class in the form that the blocks take, see ``blocks/modules.py``; for in-context also two tokens (B, 2, H)."""

    c: Tensor
    tokens: Tensor | None


class Projection(nn.Module):
    """Norm, modulated in the adaLN designs, and a linear layer: the end of the model, and the input of a decoder.

    The designs without modulation have a plain affine norm, as required for the parameter counts in the paper
    (in-context 449M, cross-attention 598M; a modulated end would add 2.7M). Both start at zero, as in the released models.
    """

    def __init__(self, hidden_size: int, condition_size: int, outputs: int, modulated: bool, switches: Switches):
        super().__init__()
        self.linear = Linear(hidden_size, outputs)
        if modulated:
            self.adaLN_modulation = Modulation(condition_size, hidden_size, 2)
        else:
            self.norm_final = affine_norm(hidden_size, switches)
        self.modulated, self.norm = modulated, switches.norm

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        if not self.modulated:
            return self.linear(self.norm_final(x))
        shift, scale = self.adaLN_modulation(c).float().chunk(2, dim=1)
        return self.linear(modulate(x, shift, scale, self.norm))


class DiT(nn.Module):
    """A class-conditional diffusion transformer.

    Args (the released names):
        input_size: pixels (or latent cells) per side; patch_size must divide it.
        learn_sigma: the output has a second set of channels for the variance.
        class_dropout_prob: above 0 the label table has a null class, index ``num_classes``. The objective drops
            labels: draws are per sample, so that they never depend on ranks.
        null_class: ``learned``, or ``zero`` for a row that stays the zero vector, as in MaskDiT.
        block: a design's name, see ``blocks``.
        relative_bias: a learned bias for each offset between two tokens in every attention; MDT's, off in the paper.
        switches: fields of ``Switches``, for example ``qk_norm=True``.

    Raises:
        UserError: the patch size does not divide the input, the heads do not divide the width, or the block design is unknown.
    """

    pos_embed: Tensor                                                          # (1, T, H); not with rotary positions alone
    rope: Tensor                                                               # (2, T, D / 2), only with them
    training_only: ClassVar[tuple[str, ...]] = ()                              # modules and parameters that sampling never uses

    def __init__(self, *, input_size: int, patch_size: int, in_channels: int, hidden_size: int, depth: int, num_heads: int,
                 mlp_ratio: float = 4.0, class_dropout_prob: float = 0.1, num_classes: int = 1000, learn_sigma: bool = True,
                 block: str = DEFAULT_DESIGN, relative_bias: bool = False, null_class: str = "learned", **switches):
        super().__init__()
        self.scales: dict[str, Scale] = {}                                     # of parameters that are not standard, by name
        self.grid = token_grid(input_size, patch_size)
        if hidden_size % num_heads or hidden_size % 4:
            raise UserError(f"hidden_size {hidden_size} must be a multiple of num_heads {num_heads} and of 4")
        if block not in DESIGNS:
            raise UserError(f"no block design '{block}'{did_you_mean(block, DESIGNS) or '.'} Designs: {', '.join(DESIGNS)}")
        self.patch_size, self.num_classes, self.block, self.design = patch_size, num_classes, block, DESIGNS[block]
        self.hidden_size, self.num_heads, self.mlp_ratio, self.switches = hidden_size, num_heads, mlp_ratio, Switches(**switches)
        self.switches.check_head(hidden_size, num_heads, "hidden_size")
        self.relative_grid = self.grid if relative_bias else 0
        self.out_channels = in_channels * (2 if learn_sigma else 1)
        bottleneck = self.switches.patch_bottleneck
        self.x_embedder = (PatchEmbed(patch_size, in_channels, hidden_size) if bottleneck is None else
                           BottleneckPatchEmbed(patch_size, in_channels, bottleneck, hidden_size))
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, class_dropout_prob, zero_null=null_class == "zero")
        if self.switches.rotates:
            self.register_buffer("rope", rope.rotations(hidden_size // num_heads, self.grid))
        if self.switches.adds_table:
            self.register_buffer("pos_embed", sincos_position_table(hidden_size, self.grid))
        self.blocks = self.make_blocks(depth, hidden_size, num_heads)
        self.final_layer = self.make_projection(hidden_size, patch_size * patch_size * self.out_channels)
        initialize_linears(self)
        nn.init.xavier_uniform_(self.x_embedder.patches.weight.flatten(1))
        if self.x_embedder.patches.bias is not None:
            nn.init.zeros_(self.x_embedder.patches.bias)
        for embedding in (*self.y_embedder.modules(), *self.t_embedder.modules()):
            if isinstance(embedding, (nn.Embedding, nn.Linear)):
                nn.init.normal_(embedding.weight, std=0.02)
        if null_class == "zero":
            nn.init.zeros_(self.y_embedder.embedding_table.weight[num_classes])

    def make_blocks(self, depth: int, width: int, num_heads: int) -> nn.ModuleList:
        """Blocks of the model's design, with its condition."""
        block = self.design.block
        blocks = nn.ModuleList(block(width, self.hidden_size, num_heads, self.mlp_ratio, self.switches, self.relative_grid) for _ in range(depth))
        if self.switches.value_residual and depth > 1:
            for index, one in enumerate(cast("list[Block]", blocks)):
                one.attn.mix_values(is_first=index == 0)
        return blocks

    def make_projection(self, width: int, outputs: int) -> Projection:
        return Projection(width, self.hidden_size, outputs, self.design.modulated, self.switches)

    def embed(self, x: Tensor) -> Tensor:
        """An image (B, C, S, S) to tokens (B, T, H) with position embeddings."""
        dtype = self.x_embedder.patches.weight.dtype
        tokens = self.x_embedder(x.to(dtype))
        return (tokens + self.pos_embed).to(dtype) if self.switches.adds_table else tokens  # DeepSpeed keeps the table in fp32

    def where(self, table: str, extra: Tensor | None, kept: Tensor | None = None) -> Tensor | None:
        """The rotations of all tokens, or of those at ``kept`` (B, K), and of ``extra`` tokens; None without rotary positions.

        Args:
            table: the buffer's name; a decoder whose heads have another width has its own.
        """
        return rope.at(getattr(self, table), kept, 0 if extra is None else extra.shape[1]) if self.switches.rotates else None

    def condition(self, t: Tensor, y: Tensor) -> Condition:
        """Time t (B,) and labels y (B,) to the condition."""
        t, y = self.t_embedder(t), self.y_embedder(y)                          # (B, H) each
        if self.design.condition == "sequence":
            return Condition(torch.stack([t, y], dim=1), None)
        return Condition(t + y, torch.stack([t, y], dim=1) if self.design.condition == "tokens" else None)

    def encode(self, tokens: Tensor, condition: Condition, kept: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, K, H) through all blocks; also returns the extra tokens (for in-context, the condition's).

        ``kept`` (B, K) are their indices among all tokens; None: they are all.
        """
        return run(self.blocks, tokens, condition.tokens, condition.c, self.where("rope", condition.tokens, kept))

    def to_image(self, tokens: Tensor, c: Tensor) -> Tensor:
        """All tokens (B, T, width of the end) to an image (B, C or 2C, S, S)."""
        return unpatchify(self.final_layer(tokens, c), self.patch_size, self.out_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Shapes: x (B, C, S, S), t (B,) in 0..1000, labels y (B,) with ``num_classes`` for null; returns (B, C or 2C, S, S)."""
        condition = self.condition(t, y)
        tokens, _ = self.encode(self.embed(x), condition)
        return self.to_image(tokens, condition.c)


def run(blocks, tokens: Tensor, extra: Tensor | None, c: Tensor, where: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Tokens (B, K, H) through a stack of blocks, together with extra tokens (B, E, H); returned separately.

    A block with a list ``tapped`` (``taps.py``) adds its tokens to it.
    """
    x, count, first = join(tokens, extra), tokens.shape[1], None
    for block in blocks:
        result = block(x, c, where) if first is None else block(x, c, where, first)
        x, first = result if isinstance(result, tuple) else (result, first)    # a tuple: of a first block, for value residual
        if (tapped := getattr(block, "tapped", None)) is not None:
            tapped.append(part(x, count)[0])
    return part(x, count)


def join(tokens: Tensor, extra: Tensor | None) -> Tensor:
    return tokens if extra is None else torch.cat([tokens, extra], dim=1)


def part(x: Tensor, tokens: int) -> tuple[Tensor, Tensor | None]:
    """The first tokens and the extra ones; the inverse of ``join``."""
    return (x, None) if x.shape[1] == tokens else (x[:, :tokens], x[:, tokens:])


def initialize_linears(module: nn.Module) -> None:
    """Xavier for linear layers; zero for every modulation and every projection (Sec. 3.2).

    A zero modulation makes adaLN-Zero blocks the identity and adaLN blocks plain pre-norm blocks.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer in module.modules():
        for linear in layer.modules() if isinstance(layer, (Modulation, Projection)) else ():
            if isinstance(linear, nn.Linear):
                nn.init.zeros_(linear.weight)


def create_model(name: str, *, seed: int | None = None, variant: type[DiT] = DiT, **options) -> DiT:
    """Build ``DiT-<size>/<patch>``, for example ``create_model("DiT-XL/2", input_size=32, in_channels=4)``.

    ``seed`` fixes the initial weights without touching torch's global generator; ``variant`` is ``DiT`` or a subclass.
    """
    parsed = parse_model_name(name)
    dims = parsed.dims
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return variant(patch_size=parsed.patch_size, hidden_size=dims.hidden_size, depth=dims.depth, num_heads=dims.num_heads,
                       **options)
