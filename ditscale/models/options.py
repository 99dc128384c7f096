"""The config's section ``model``: size, block design, switches, parametrization. No torch."""

from dataclasses import fields
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from ditscale.errors import UserError
from ditscale.models.blocks import DEFAULT_DESIGN, DESIGNS
from ditscale.models.sizes import parse_model_name
from ditscale.models.switches import Switches
from ditscale.section import Depth, Section, Width

if TYPE_CHECKING:
    Block = str
else:
    Block = Literal[tuple(DESIGNS)]

PARAMETRIZATION = ("parametrization", "base_width", "base_depth")             # keys of the section model


class ModelConfig(Section):
    name: str                                                                  # DiT-<size>/<patch>, e.g. DiT-XL/2
    class_dropout_prob: float = Field(default=0.1, ge=0, lt=1)                 # DiT: 0.1; needed for guidance
    block: Block = DEFAULT_DESIGN                                              # how the condition reaches the blocks
    qk_norm: bool = False                                                      # RMSNorm of queries and keys; off in the paper
    norm: Literal["layer", "rms"] = "layer"                                    # this and the next four: switches.py; off in the paper
    mlp: Literal["gelu", "swiglu"] = "gelu"
    positions: Literal["sincos", "rope", "sincos_rope"] = "sincos"
    value_residual: bool = False
    patch_bottleneck: Width | None = None                                      # channels between a patch and its token; JiT: 128
    null_class: Literal["learned", "zero"] = "learned"                         # a learned embedding, or MaskDiT's zero vector
    parametrization: Literal["standard", "mup", "completep"] = "standard"      # of weights and rates by size: models/parametrization.py
    base_width: Width | None = None                                            # mup, completep: the width that is standard
    base_depth: Depth | None = Field(default=None, gt=0)                       # completep: the depth that is standard

    @property
    def is_standard(self) -> bool:
        """Whether it is the standard model, of whatever parametrization: at the base size all are equal."""
        dims = parse_model_name(self.name).dims
        return (dims.hidden_size, dims.depth) == (self.base_width or dims.hidden_size, self.base_depth or dims.depth)

    @property
    def switches(self) -> Switches:
        return Switches(**{field.name: getattr(self, field.name) for field in fields(Switches)})

    @model_validator(mode="after")
    def _check_switches(self):
        dims = parse_model_name(self.name).dims
        self.switches.check_head(dims.hidden_size, dims.num_heads, f"model.name {self.name}: width")
        if self.value_residual and dims.depth == 1:
            raise UserError(f"model.value_residual has no effect in {self.name}, which has one block; leave it out")
        return self

    @model_validator(mode="after")
    def _check_base(self):
        needed = {"standard": (), "mup": ("base_width",), "completep": ("base_width", "base_depth")}[self.parametrization]
        for key in ("base_width", "base_depth"):
            value = getattr(self, key)
            if value is None and key in needed:
                raise UserError(f"model.parametrization {self.parametrization} needs model.{key}: the size whose learning rate was tuned")
            if value is not None and key not in needed:
                raise UserError(f"model.{key} {value} has no effect with model.parametrization {self.parametrization}; leave it out, or set it to null")
        dims = parse_model_name(self.name).dims
        head = dims.hidden_size // dims.num_heads
        if self.base_width is not None and (self.base_width % head or self.base_width % 4):
            raise UserError(f"model.base_width {self.base_width} must be a multiple of {head}, the width of a head of {self.name}"
                            + (", and of 4" if head % 4 else ""))
        return self

    @model_validator(mode="after")
    def _check_null_class(self):
        if self.null_class == "zero" and self.class_dropout_prob == 0:
            raise UserError("model.null_class zero with model.class_dropout_prob 0: no label is ever dropped, so there is no null "
                            "class; leave it out, or give a class_dropout_prob above 0")
        return self
