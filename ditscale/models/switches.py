"""Parts of the backbone that later work replaced in a DiT, each a switch that is off in the paper. No torch.

A switch acts in all blocks alike, also in added decoders, and in the layer norms outside them; the block design decides how the condition enters.

==================  =============================================================================================================
``qk_norm``         RMSNorm of the queries and keys of each head
``norm: rms``       RMSNorm (arXiv 1910.07467) in place of every layer norm: no mean is subtracted, and affine ones have no bias
``mlp: swiglu``     ``fc2(silu(gate) * up)`` (arXiv 2002.05202), 2/3 as wide, so with as many parameters: ``Switches.hidden``
``positions: rope`` 2-D rotary positions of queries and keys (``rope.py``) in place of the table added to the tokens; ``sincos_rope``: both
``value_residual``  each block's values are ``(1 - l) v + l v_1`` with v_1 those of the stack's first block, and l one learned number
                    per later block, 0.5 at the start (arXiv 2410.17897)
``patch_bottleneck``patches to tokens through this many channels: two linear layers, the first without bias (JiT, arXiv 2511.13720)
==================  =============================================================================================================
"""

from dataclasses import dataclass, fields

from ditscale.errors import UserError

ALIGNED = 8                                                                    # a SwiGLU's width is a multiple of it: a bf16 matrix unit's
CHOICES = {"norm": ("layer", "rms"), "mlp": ("gelu", "swiglu"), "positions": ("sincos", "rope", "sincos_rope")}


@dataclass(frozen=True)
class Switches:
    """The switches of one model; the defaults are the paper's."""

    qk_norm: bool = False
    norm: str = "layer"
    mlp: str = "gelu"
    positions: str = "sincos"
    value_residual: bool = False
    patch_bottleneck: int | None = None

    def __post_init__(self):
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(f"no {name} '{getattr(self, name)}': {' or '.join(known)}")

    @property
    def given(self) -> dict:
        """Those that are not at their default, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) != field.default}

    @property
    def words(self) -> str:
        """The same for messages: ``norm rms and mlp swiglu``."""
        said = ["QK-norm" if name == "qk_norm" else name if value is True else f"{name} {value}" for name, value in self.given.items()]
        return " and ".join(said)

    def hidden(self, width: int, ratio: float = 4.0) -> int:
        """Hidden width of the MLP of blocks of ``width``: ``ratio`` times that; of a SwiGLU 2/3 of it, to the nearest multiple of 8."""
        whole = int(width * ratio)
        return whole if self.mlp == "gelu" else max(1, round(whole * 2 / 3 / ALIGNED)) * ALIGNED

    @property
    def rotates(self) -> bool:
        """Whether queries and keys have rotary positions."""
        return self.positions != "sincos"

    @property
    def adds_table(self) -> bool:
        """Whether the sin-cos table is added to the tokens."""
        return self.positions != "rope"

    @property
    def affine_vectors(self) -> int:
        """Parameters of an affine norm, in units of its width."""
        return 2 if self.norm == "layer" else 1

    def check_head(self, width: int, heads: int, key: str) -> None:
        """Raises UserError for heads that rotary positions cannot rotate: two axes need pairs of channels each."""
        if self.rotates and width // heads % 4:
            raise UserError(f"{key} {width} in {heads} heads of {width // heads}: positions {self.positions} need heads of a multiple of 4 channels")


STANDARD = Switches()
