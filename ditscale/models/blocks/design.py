"""A block design without torch: its style in figures, and one block's compute and memory in closed form."""

import pkgutil
from dataclasses import dataclass
from typing import Literal

from ditscale.models.matrices import BLOCK, GATE_UP, KV, MODULATION, QKV, WeightMatrix
from ditscale.models.switches import STANDARD, Switches

CONDITION_TOKENS = 2                                                           # time and class, if they are not summed


def mlp_shapes(width: int, switches: Switches) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows, columns) of the MLP's two weights; of a SwiGLU the first stacks gate and up."""
    hidden = switches.hidden(width)
    return (hidden * (2 if switches.mlp == "swiglu" else 1), width), (width, hidden)


@dataclass(frozen=True)
class BlockDesign:
    """A design of blocks, with the closed forms of a plain or modulated pre-norm block with an MLP four times as wide.

    A design that computes something else overrides ``macs``, ``parameters``, ``matrices`` and ``kept_bytes``; tests compare them with PyTorch.
    All take the model's ``Switches``, as the class does.

    Args:
        name: in a config's ``model.block``.
        label: in figures and on the report.
        color, dark_color: on light and on dark background.
        path: ``package.module:Class`` of the block, imported when a model is built; its arguments and its call: ``modules.py``.
        condition: how blocks take time and class: their ``sum`` (B, E), a ``sequence`` (B, 2, E), or two more ``tokens``.
        modulation_vectors: how many a block computes from the condition to modulate its norms without affine; 0: affine norms.
        gates: branches that are multiplied by a modulation vector before they are added.
        norms, attentions: number per block.
    """

    name: str
    label: str
    color: str
    dark_color: str
    path: str
    condition: Literal["sum", "sequence", "tokens"] = "sum"
    modulation_vectors: int = 0
    gates: int = 0
    norms: int = 2
    attentions: int = 1

    @property
    def block(self):
        """The block's class. Imports torch."""
        return pkgutil.resolve_name(self.path)

    @property
    def modulated(self) -> bool:
        """Whether the condition acts through the layer norms, of the blocks and outside them."""
        return self.modulation_vectors > 0

    @property
    def added_tokens(self) -> int:
        """Tokens that blocks process in addition to the image's."""
        return CONDITION_TOKENS if self.condition == "tokens" else 0

    def macs(self, width: int, condition_width: int, tokens: int, switches: Switches = STANDARD) -> dict[str, int]:
        """MACs of one block over ``tokens`` tokens, including added ones, by part.

        With W width and C condition width a block over T tokens takes 12 W^2 T for its matrices and 2 T^2 W for attention, and
        V C W, once per image, for V modulation vectors. A SwiGLU of hidden width h takes 3 h W T in place of 8 W^2 T.
        """
        mlp = sum(rows * columns for rows, columns in mlp_shapes(width, switches))
        return {"conditioning": self.modulation_vectors * condition_width * width,
                "attention": 4 * width**2 * tokens + 2 * tokens * tokens * width,
                "mlp": mlp * tokens}

    def parameters(self, width: int, condition_width: int, heads: int, switches: Switches = STANDARD) -> int:
        """Parameters of one block, without the number that value residual adds to the later ones of a stack."""
        affine = 0 if self.modulated else self.norms
        return (4 * width * (width + 1)                                        # qkv, proj and their biases
                + sum(rows * (columns + 1) for rows, columns in mlp_shapes(width, switches))
                + self.modulation_vectors * width * (condition_width + 1) + affine * switches.affine_vectors * width
                + switches.qk_norm * self.attentions * 2 * width // heads)

    def matrices(self, width: int, condition_width: int, switches: Switches = STANDARD) -> list[WeightMatrix]:
        """The weight matrices of one block."""
        modulation = [WeightMatrix(MODULATION, self.modulation_vectors * width, condition_width)] if self.modulated else []
        first, last = mlp_shapes(width, switches)
        return [WeightMatrix(QKV, 3 * width, width), WeightMatrix(BLOCK, width, width),
                WeightMatrix(GATE_UP if switches.mlp == "swiglu" else BLOCK, *first), WeightMatrix(BLOCK, *last), *modulation]

    def kept_bytes(self, value_bytes: int, width: int, heads: int, tokens: int, switches: Switches = STANDARD) -> int:
        """Bytes per image that one block keeps for the backward, at ``value_bytes`` per value.

        A token keeps, in units of W values: q, k, v and attention's output (4), the MLP's hidden layer before and after GELU (8),
        input and output of each norm (2 each), and a branch before its gate (1 each). Modulated norms also keep their result in fp32.
        Attention keeps one fp32 number per head, a layer norm two statistics, an RMSNorm one in fp32 (PyTorch's fused kernel; without it more).
        A SwiGLU keeps gate, up, silu(gate) and their product. Rotated queries and keys are two more, mixed values one. An image keeps
        gates (as a view of all vectors), 1 + scale, and SiLU's output.
        """
        mlp = 4 * switches.hidden(width) if switches.mlp == "swiglu" else 8 * width
        attention = 4 + 2 * switches.rotates + switches.value_residual
        token = value_bytes * (mlp + (attention + 2 * self.norms + self.gates) * width) + 4 * heads * self.attentions
        is_rms = switches.norm == "rms"
        if not self.modulated:
            return tokens * (token + (4 if is_rms else 8) * self.norms)
        token += self.norms * ((4 if is_rms else 2 * value_bytes) + 4 * width)
        image = (4 * self.modulation_vectors * (self.gates > 0) + 4 * self.norms + value_bytes) * width
        return tokens * token + image


@dataclass(frozen=True)
class CrossAttending(BlockDesign):
    """Blocks with a cross-attention to the condition, and a norm before it."""

    norms: int = 3
    attentions: int = 2

    def macs(self, width: int, condition_width: int, tokens: int, switches: Switches = STANDARD) -> dict[str, int]:
        """In addition: 2 W^2 T for queries and projection, 4 C W for two keys and values, 4 T W for the attention itself."""
        cross = (2 * width**2 * tokens + 2 * CONDITION_TOKENS * condition_width * width + 2 * CONDITION_TOKENS * tokens * width)
        return super().macs(width, condition_width, tokens, switches) | {"cross_attention": cross}

    def parameters(self, width: int, condition_width: int, heads: int, switches: Switches = STANDARD) -> int:
        cross = 2 * (width**2 + width) + 2 * width * (condition_width + 1)     # q and proj, kv
        return super().parameters(width, condition_width, heads, switches) + cross

    def matrices(self, width: int, condition_width: int, switches: Switches = STANDARD) -> list[WeightMatrix]:
        return [*super().matrices(width, condition_width, switches), WeightMatrix(BLOCK, width, width, count=2),
                WeightMatrix(KV, 2 * width, condition_width)]

    def kept_bytes(self, value_bytes: int, width: int, heads: int, tokens: int, switches: Switches = STANDARD) -> int:
        """In addition: queries and output (2), and the condition's keys and values."""
        cross = value_bytes * 2 * width * (tokens + CONDITION_TOKENS)
        return super().kept_bytes(value_bytes, width, heads, tokens, switches) + cross
