"""The table of models: size, compute and memory of each, for ``ditscale models``."""

import csv
import io
from dataclasses import dataclass

from ditscale.cost.compute import ComputeCard, compute_card
from ditscale.cost.memory import activation_bytes
from ditscale.models.sizes import PATCH_SIZES, SIZES, ModelName

HEADER = ("model", "depth", "width", "heads", "parameters", "tokens", "GMACs", "GFLOPs", "activations MiB")


@dataclass(frozen=True)
class ModelRow:
    """One model at one resolution; compute is one image's forward, activations are what training keeps of one image in bf16."""

    name: ModelName
    card: ComputeCard
    activation_bytes: int

    def cells(self, thousands: str = "") -> tuple[str, ...]:
        dims = self.name.dims
        return (str(self.name), str(dims.depth), str(dims.hidden_size), str(dims.num_heads),
                f"{self.card.parameters:{thousands}}", str(self.card.tokens), f"{self.card.macs / 1e9:.6g}",
                f"{self.card.flops / 1e9:.6g}", f"{self.activation_bytes / 2**20:.4g}")


def model_rows(*, resolution: int, channels: int, classes: int, block: str, learn_sigma: bool = True) -> list[ModelRow]:
    """Every size at every patch size that divides the resolution."""
    names = [ModelName(size, patch) for size in SIZES for patch in PATCH_SIZES if resolution % patch == 0]
    return [ModelRow(name, compute_card(name, resolution=resolution, channels=channels, classes=classes, block=block,
                                        learn_sigma=learn_sigma),
                     activation_bytes(name, resolution=resolution, channels=channels, block=block)) for name in names]


def as_csv(rows: list[ModelRow]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *(row.cells() for row in rows)])
    return text.getvalue()


def as_markdown(rows: list[ModelRow]) -> str:
    lines = [HEADER, ["---"] + ["---:"] * (len(HEADER) - 1), *(row.cells(",") for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def as_text(rows: list[ModelRow]) -> str:
    """Columns aligned by spaces."""
    lines = [HEADER, *(row.cells(",") for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    return "".join("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                             for i, (cell, width) in enumerate(zip(line, widths))).rstrip() + "\n" for line in lines)
