"""The weight matrices that an optimizer may update whole: their kinds by name, and their shapes in closed form. No torch.

Kinds are ``qkv``, ``kv`` and a SwiGLU's ``gate_up`` (several matrices in one parameter), ``block`` (the other matrices of blocks, long skips,
SPRINT's fusion), ``modulation`` (of blocks, of the final layer and of a decoder's input) and ``last_layer``. Embedders, tables, tokens and
heads have none.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

QKV, KV, GATE_UP, BLOCK, MODULATION, LAST_LAYER = "qkv", "kv", "gate_up", "block", "modulation", "last_layer"
STACKED = {QKV: 3, KV: 2, GATE_UP: 2}                                                      # matrices in one parameter, one below another
_NAMES = {
    QKV: re.compile(r"(blocks|decoder_blocks|side_block)\.\d+\.attn\.qkv\.weight"),
    KV: re.compile(r"(blocks|decoder_blocks|side_block)\.\d+\.cross_attn\.kv\.weight"),
    GATE_UP: re.compile(r"(blocks|decoder_blocks|side_block)\.\d+\.mlp\.gate_up\.weight"),
    BLOCK: re.compile(r"(blocks|decoder_blocks|side_block)\.\d+\.(attn\.proj|cross_attn\.q|cross_attn\.proj|mlp\.fc1|mlp\.fc2)\.weight"
                      r"|skips\.\d+\.weight|fuse\.weight"),
    MODULATION: re.compile(r"(.+\.)?adaLN_modulation\.1\.weight"),
    LAST_LAYER: re.compile(r"final_layer\.linear\.weight"),
}


@dataclass(frozen=True)
class WeightMatrix:
    """``count`` parameters of one kind and shape."""

    kind: str
    rows: int
    columns: int
    count: int = 1

    @property
    def parameters(self) -> int:
        return self.count * self.rows * self.columns


def kind_of(name: str) -> str | None:
    """The kind of a parameter, by its name in the model; None if it is no such matrix."""
    return next((kind for kind, pattern in _NAMES.items() if pattern.fullmatch(name)), None)


def repeated(matrices: Iterable[WeightMatrix], times: int) -> list[WeightMatrix]:
    """Those of ``times`` equal blocks."""
    return [replace(one, count=one.count * times) for one in matrices] if times else []
