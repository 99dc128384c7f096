"""The table of model sizes, one line each, and the parser of names such as ``DiT-XL/2`` or ``DiT-14x448/2``.

S, B, L and XL are Table 1 of the DiT paper (arXiv 2212.09748). The small sizes have timm's names for small
models of a family; tiny is DeiT-Ti's 12 x 192 x 3, and each smaller size costs a half to a quarter of the one above. No torch here:
the planner also uses this table.
"""

import functools
import re
from dataclasses import dataclass

from ditscale.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Size:
    """Depth (blocks), width (hidden size) and attention heads."""

    depth: int
    hidden_size: int
    num_heads: int


SIZES = {
    "atto": Size(4, 32, 1),
    "femto": Size(4, 64, 2),
    "pico": Size(4, 96, 3),
    "nano": Size(6, 128, 4),
    "tiny": Size(12, 192, 3),
    "S": Size(12, 384, 6),
    "B": Size(12, 768, 12),
    "L": Size(24, 1024, 16),
    "XL": Size(28, 1152, 16),
}

PATCH_SIZES = (2, 4, 8)                                                        # the paper's; a model may have any that divides its input

MOST_NAMED = 32                                                                # the largest patch size that an error suggests
HEAD_WIDTH = 64                                                                # of sizes given as depth x width


@dataclass(frozen=True)
class ModelName:
    """A parsed model name: ``DiT-XL/2`` is size ``XL`` at patch size 2; ``14x448`` has 14 blocks of width 448, in heads of 64, and
    ``14x448x8`` the same with 8 heads."""

    size: str
    patch_size: int

    @property
    def dims(self) -> Size:
        if self.size in SIZES:
            return SIZES[self.size]
        depth, width, *heads = map(int, self.size.split("x"))
        return Size(depth, width, *heads or [width // HEAD_WIDTH])

    def __str__(self) -> str:
        return f"DiT-{self.size}/{self.patch_size}"


@functools.cache                                                               # a study calls this thousands of times
def parse_model_name(name: str) -> ModelName:
    """Read ``DiT-<size>/<patch>``; a size is one of the table, ``<depth>x<width>``, or ``<depth>x<width>x<heads>``.

    Raises:
        UserError: the form, the size or the patch size is invalid.
    """
    match = re.fullmatch(r"DiT-([A-Za-z]+|[1-9][0-9]{0,3}x[1-9][0-9]{0,4}(?:x[1-9][0-9]{0,3})?)/([0-9]{1,5})", name)
    if not match:
        raise UserError(f"model name '{name}' is not of the form DiT-<size>/<patch>, for example DiT-nano/2; a size is a name, or "
                        "depth x width such as 14x448")
    size, patch_size = match[1], int(match[2])
    if size[0].isdigit():
        _, width, *heads = map(int, size.split("x"))
        if heads and width % heads[0]:
            raise UserError(f"model name '{name}': width {width} is not a multiple of {heads[0]} heads")
        if not heads and width % HEAD_WIDTH:
            raise UserError(f"model name '{name}': width {width} is not a multiple of {HEAD_WIDTH}, the width of a head; "
                            f"{width - width % HEAD_WIDTH or HEAD_WIDTH} would work")
    elif size not in SIZES:
        raise UserError(f"model name '{name}': no size '{size}'{did_you_mean(size, SIZES) or '.'} Sizes: {', '.join(SIZES)}")
    if not patch_size:
        raise UserError(f"model name '{name}': no patch size 0. Patch sizes: 2, 4, 8, or any that divides the input")
    return ModelName(size, patch_size)


def name_of(dims: Size, patch_size: int) -> str:
    """The name of these dimensions: a size of the table, depth x width where heads are 64 wide, else with the number of heads.

    Raises:
        UserError: no model can have them.
    """
    named = next((name for name, size in SIZES.items() if size == dims), f"{dims.depth}x{dims.hidden_size}")
    if named not in SIZES and dims.num_heads * HEAD_WIDTH != dims.hidden_size:
        named += f"x{dims.num_heads}"
    return str(parse_model_name(f"DiT-{named}/{patch_size}"))


def token_grid(resolution: int, patch_size: int) -> int:
    """Tokens along one side.

    Raises:
        UserError: the patch size does not divide the resolution.
    """
    if resolution % patch_size:
        fits = [p for p in range(1, min(resolution, MOST_NAMED) + 1) if resolution % p == 0]
        raise UserError(f"patch size {patch_size} does not divide the input's {resolution} pixels per side; patch sizes that do: "
                        f"{', '.join(map(str, fits))}")
    return resolution // patch_size
