"""Sample images, one row per model and one column per class, with the same noise in a column: DiT's Figure 7 (arXiv 2212.09748).

Sheets are in ADM's format: ``arr_0`` uint8 (N, H, W, C), ``arr_1`` class labels (N,). In all sheets of a study, image i
comes from the same noise and the same class.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from ditscale.errors import UserError
from ditscale.figures.kit import one_length, script, study_table, style

NAME = "samples"
MAX_COLUMNS = 10
TILE_PX = 96                            # each image is resized to this: 12 x 12 pixels for each pixel of an 8 x 8 image
GAP, GROUP_GAP = 0.06, 0.30             # between tiles and between sizes, in tiles


def draw(table: pd.DataFrame) -> style.Drawing:
    """The grid of the finished runs, one per model; the row of a run without a sheet says so. Models with several lengths are shown at one
    number of images if each has a sheet there, else each at the end of its longest run.

    Raises:
        UserError: no run has finished, no run has a sheet, or two sheets have different classes.
    """
    usable, left_out = study_table.scored(table)
    rows, shown = _choose(usable)
    sheets = [load_sheet(path) for path in rows["sample_sheet"]]
    classes, columns = choose_columns(rows, sheets)
    with style.paper():
        figure = _grid(rows, sheets, classes, columns)
    points = rows[["run_id", "model", "size", "patch_size", "seed", "macs", "metric", "score", "sample_sheet"]].assign(
        has_sheet=[sheet is not None for sheet in sheets], images=" ".join(map(str, columns)))
    return style.Drawing(NAME, figure, points, _caption(rows, sheets, shown, left_out))


def _choose(usable: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """One row per model, by size, then by MACs, and what its score is, for the caption."""
    final, metric = study_table.finished(usable), usable["metric"].iloc[0]
    if not one_length.has_several(final):
        return _first_seeds(final), f"the model's final {metric}"
    rows, _ = one_length.at_one_count(usable)
    if (at_one := _first_seeds(rows))["sample_sheet"].map(lambda path: isinstance(path, str) and Path(path).is_file()).all():
        return at_one, f"{metric} {one_length.where(rows)}, as are the samples"
    longest = final[final["images_seen"] == final.groupby("model")["images_seen"].transform("max")]
    return _first_seeds(longest), f"{metric} {one_length.where(longest)}, as are the samples"


def _first_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("seed", kind="stable").drop_duplicates("model").sort_index().reset_index(drop=True)


def load_sheet(path: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Images (N, H, W, C) and labels (N,), or None if the file does not exist.

    Raises:
        UserError: the file is not a sheet.
    """
    if not isinstance(path, str) or not path or not Path(path).is_file():
        return None
    with np.load(path) as arrays:
        if not {"arr_0", "arr_1"} <= set(arrays):
            raise UserError(f"sample sheet '{path}' holds {', '.join(arrays) or 'nothing'}; it needs arr_0 and arr_1")
        images, labels = arrays["arr_0"], arrays["arr_1"]
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
        raise UserError(f"sample sheet '{path}': arr_0 is {images.dtype} {images.shape} with {len(labels)} labels; "
                        "it needs uint8 (N, H, W, C) and one label per image")
    return images, labels


def choose_columns(rows: pd.DataFrame, sheets: list) -> tuple[list[int], list[int]]:
    """The classes shown and, for each, the index of its first image.

    Raises:
        UserError: there is no sheet at all, or a sheet has another class at one of these indices.
    """
    present = [(run, sheet[1]) for run, sheet in zip(rows["run_id"], sheets) if sheet is not None]
    if not present:
        raise UserError("no finished run has a sample sheet: there are no images to show")
    first_run, first = present[0]
    classes, index = np.unique(first, return_index=True)
    spread = np.unique(np.linspace(0, len(classes) - 1, min(MAX_COLUMNS, len(classes))).round().astype(int))
    classes, index = classes[spread], index[spread]
    for run, labels in present:
        if index.max() >= len(labels) or (labels[index] != classes).any():
            raise UserError(f"the sample sheets of '{first_run}' and '{run}' differ in class image by image: "
                            "a column would not be one class")
    return classes.tolist(), index.tolist()


def _grid(rows: pd.DataFrame, sheets: list, classes: list[int], columns: list[int]) -> Figure:
    """Draws all tiles as one image, transparent between them. The axes' unit is one tile; row 0 is at the top."""
    new_size = (rows["size"] != rows["size"].shift()).cumsum() - 1
    tops = np.arange(len(rows)) * (1 + GAP) + new_size.to_numpy() * GROUP_GAP
    lefts = np.arange(len(classes)) * (1 + GAP)
    width, height = lefts[-1] + 1, tops[-1] + 1
    tile = (style.WIDTH - 1.45) / max(width, 6.0)                        # inches; the rest is for the texts
    tall = tile * height + 0.42
    figure = Figure(figsize=(style.WIDTH, tall))
    axes = figure.add_axes((0.80 / style.WIDTH, 0.06 / tall, tile * width / style.WIDTH, tile * height / tall))
    axes.imshow(_mosaic(sheets, columns, lefts, tops), extent=(0, width, height, 0), interpolation="nearest",
                aspect="auto")
    axes.axis("off")
    for top, model, score, sheet in zip(tops, rows["model"], rows["score"], sheets):
        axes.text(-0.15, top + 0.5, study_table.short_name(model), ha="right", va="center", fontsize=9)
        axes.text(width + 0.15, top + 0.5, style.score_text(score), ha="left", va="center", fontsize=9)
        if sheet is None:
            axes.text(width / 2, top + 0.5, "no sample sheet", ha="center", va="center", fontsize=9, color=style.MUTED)
    for left, label in zip(lefts, classes):
        axes.text(left + 0.5, -0.15, str(label), ha="center", va="bottom", fontsize=9)
    axes.text(-0.15, -0.15, "class", ha="right", va="bottom", fontsize=9, color=style.MUTED)
    axes.text(width + 0.15, -0.15, "score", ha="left", va="bottom", fontsize=9, color=style.MUTED)
    return figure


def _mosaic(sheets: list, columns: list[int], lefts: np.ndarray, tops: np.ndarray) -> np.ndarray:
    """All tiles in one RGBA image (H, W, 4), ``TILE_PX`` pixels per tile; positions are in tiles."""
    x, y = (lefts * TILE_PX).round().astype(int), (tops * TILE_PX).round().astype(int)
    canvas = np.zeros((y[-1] + TILE_PX, x[-1] + TILE_PX, 4), np.uint8)
    for top, sheet in zip(y, sheets):
        for left, i in zip(x, columns if sheet is not None else []):
            canvas[top:top + TILE_PX, left:left + TILE_PX] = _tile(sheet[0][i])
    return canvas


def _tile(image: np.ndarray) -> np.ndarray:
    """(H, W, 1 or 3) to (TILE_PX, TILE_PX, 4): pixels of small images become squares, large images are filtered."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGBA")
    rule = Image.Resampling.NEAREST if max(image.shape) <= TILE_PX else Image.Resampling.LANCZOS
    return np.asarray(picture.resize((TILE_PX, TILE_PX), rule))


def _caption(rows: pd.DataFrame, sheets: list, shown: str, left_out: str) -> str:
    missing = sum(sheet is None for sheet in sheets)
    without = f" {study_table.count(missing, 'model')} without a sheet." if missing else ""
    return (
        "Samples in the layout of DiT's Figure 7: models in rows, grouped by size, with compute growing downward; "
        f"one class per column, all its images from the same noise. The number at the right is {shown}, "
        f"lower is better. Not picked: the first image of each class.{without}{left_out}"
    )


SCRIPT = script.figure(__doc__, draw)
main = SCRIPT.main
