"""The table of models for ``ditscale models``: size, compute and memory of each."""

import csv
import io
from dataclasses import dataclass

from ditscale.cost.memory import activation_bytes
from ditscale.models.blocks import DEFAULT_DESIGN
from ditscale.models.macs import Backbone, ComputeCard, make_backbone, plain_card
from ditscale.models.sizes import PATCH_SIZES, SIZES, ModelName
from ditscale.objectives import BASELINE, VARIANTS

HEADER = ("model", "depth", "width", "heads", "parameters", "tokens", "GMACs", "GFLOPs")


@dataclass(frozen=True)
class ModelRow:
    """One model at one resolution; compute is per image of a forward at inference, ``more`` are further columns."""

    name: ModelName
    card: ComputeCard
    more: dict[str, str]

    @property
    def header(self) -> tuple[str, ...]:
        return (*HEADER, *self.more)

    def cells(self, thousands: str = "") -> tuple[str, ...]:
        dims = self.name.dims
        return (str(self.name), str(dims.depth), str(dims.hidden_size), str(dims.num_heads),
                f"{self.card.parameters:{thousands}}", str(self.card.tokens), f"{self.card.macs / 1e9:.6g}",
                f"{self.card.flops / 1e9:.6g}", *self.more.values())


def model_rows(*, resolution: int, channels: int, classes: int, block: str = DEFAULT_DESIGN, variant: str = BASELINE) -> list[ModelRow]:
    """Every size at every patch size that divides the resolution; for ``variant`` with its default options, only patch sizes
    that give enough tokens, as a single token cannot be masked."""
    return [_row(make_backbone(ModelName(size, patch), resolution=resolution, channels=channels, classes=classes, block=block),
                 variant, resolution, channels)
            for size in SIZES for patch in PATCH_SIZES
            if resolution % patch == 0 and (resolution // patch)**2 >= VARIANTS[variant].least_tokens]


def _row(backbone: Backbone, variant: str, resolution: int, channels: int) -> ModelRow:
    """The last column of the baseline's row is the activation memory per image in bf16, of a variant's the training compute."""
    name = backbone.model
    card, plain = VARIANTS[variant].model_validate({"name": variant}).card(backbone), plain_card(backbone)
    if variant == BASELINE:
        kept = activation_bytes(name, resolution=resolution, channels=channels, block=backbone.design)
        return ModelRow(name, card, {"activations MiB": f"{kept / 2**20:.4g}"})
    return ModelRow(name, card, {"training GMACs": f"{card.train_macs_per_image / 1e9:.6g}",
                                 "to baseline": f"{card.train_macs_per_image / plain.train_macs_per_image:.3f}"})


def as_csv(rows: list[ModelRow]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([rows[0].header, *(row.cells() for row in rows)])
    return text.getvalue()


def as_markdown(rows: list[ModelRow]) -> str:
    lines = [rows[0].header, ["---"] + ["---:"] * (len(rows[0].header) - 1), *(row.cells(",") for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def as_text(rows: list[ModelRow]) -> str:
    """Columns aligned by spaces."""
    lines = [rows[0].header, *(row.cells(",") for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "".join("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                             for i, (cell, width) in enumerate(zip(line, widths))).rstrip() + "\n" for line in lines)
