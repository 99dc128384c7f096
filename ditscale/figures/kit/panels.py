"""Shared parts of figures with several panels: axes, curves of runs, and line styles.

The look of a run shows what the figure compares: its variant, or its block design, or else its patch size and size.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from ditscale.figures.kit import runs, seeds, study_table, style, variant_table
from ditscale.models.blocks import DESIGNS

BLOCK_NAMES = {name: DESIGNS[name].label for name in reversed(DESIGNS)}          # the design of the released models comes last, as in DiT's Fig. 5

MOST_CURVES, MOST_MARKERS = 30, 10      # of a panel; of a curve that has a band
MOST_ENTRIES = 28                       # of a legend
LEGEND_SIZE = 9.0                       # points, as in style.RC
MARGINS = 1.8                           # at both ends of a legend together, in its letters: the border, and its distance to the figure's


class Look(NamedTuple):
    """How a curve is drawn; ``width`` in points."""

    color: str
    dashes: object = "-"
    marker: str = "o"
    width: float = 1.6


class Looks(NamedTuple):
    """The look of each run, by run id; legend entries, the first ``kinds`` of them colors; a description in words."""

    runs: dict[str, Look]
    handles: list[Line2D]
    kinds: int
    words: str


def grid(rows: int, columns: int, row_height: float, legend_rows: int = 1, **shared):
    """A figure with ``rows`` by ``columns`` panels and a light grid; returns it and its axes ``(rows, columns)``."""
    figure = Figure(figsize=(style.WIDTH, rows * row_height + 0.45 + 0.22 * legend_rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **shared)
    for axes in panels.flat:
        axes.grid(True, which="major")
    return figure, panels


def images_axis(axes, values, label: str = "Images seen") -> None:
    """A log axis of images with ticks such as 10 k, 1 M."""
    limits = style.log_axis(axes.xaxis, values, label, 0.08, style.power_ticks)
    axes.xaxis.set_major_formatter(short_counts())
    thin_ticks(axes.xaxis, *limits, apart=0.14)


def flops_axis(axes, values, label: str = "Training compute (FLOPs)") -> None:
    """A log axis of FLOPs with ticks at powers of ten."""
    limits = style.log_axis(axes.xaxis, values, label, 0.08, style.power_ticks)
    powers_alone = all(float(f"{tick:.6g}") == 10.0 ** round(np.log10(tick)) for tick in axes.xaxis.get_majorticklocs())
    thin_ticks(axes.xaxis, *limits, apart=0.14 if powers_alone else 0.27)      # 5 x 10^11 is twice as wide as 10^11


def score_axis(panels, label: str, values, floor: float | None = None) -> None:
    """A shared log axis of scores, lower is better, with the floor as a dotted line in each panel."""
    style.log_axis(panels[0].yaxis, [*values, *([floor] if floor else [])], label)
    for axes in panels if floor else ():
        axes.axhline(floor, color=style.INK, linestyle=":", linewidth=1.4, zorder=1)


def value_axis(axes, values, log: bool, pad: float, apart: float, bins: int) -> None:
    """A y axis of values with a margin of ``pad`` of its length: logarithmic with ticks ``apart``, or linear with ``bins`` bins."""
    if log:
        limits = style.log_axis(axes.yaxis, values, axes.get_ylabel(), pad)
        thin_ticks(axes.yaxis, *limits, apart=apart)
    else:
        margin = pad * np.ptp(values) or 0.1 * abs(values.iloc[0]) or 0.1
        axes.set_ylim(values.min() - margin, values.max() + margin)
        axes.locator_params(axis="y", nbins=bins)


def thin_ticks(axis, low: float, high: float, apart: float) -> None:
    """Drops ticks of a log axis that are closer than this share of its length to the last one kept."""
    kept: list[float] = []
    for tick in axis.get_majorticklocs():
        if low <= tick <= high and (not kept or np.log(tick / kept[-1]) >= apart * np.log(high / low)):
            kept.append(tick)
    axis.set_major_locator(ticker.FixedLocator(kept))


def short_counts() -> ticker.FuncFormatter:
    return ticker.FuncFormatter(lambda value, _: style.short_count(value))


def floor_handle() -> Line2D:
    return Line2D([], [], color=style.INK, linestyle=":", linewidth=1.4, label="floor")


def handle(look: Look, label: str) -> Line2D:
    """A legend entry for a curve of this look."""
    return Line2D([], [], color=look.color, linestyle=look.dashes, linewidth=look.width, marker=look.marker, markersize=5.0, label=label)


def color_handle(color: str, label: str) -> Line2D:
    """A legend entry for a color."""
    return Line2D([], [], color=color, linewidth=3.5, label=label)


def variant_handles(rows: pd.DataFrame) -> list[Line2D]:
    return [color_handle(style.variant_color(name), name) for name in variant_table.variants_in_order(rows)]


def run_curve(axes, across: np.ndarray, up: np.ndarray, ended: np.ndarray, look: Look) -> None:
    """Draws a run's evaluations as open markers on a line, filled where the run ``ended``; ``(k,)`` each."""
    ended = ended.astype(bool)
    axes.plot(across, up, color=look.color, linestyle=look.dashes, linewidth=look.width, zorder=2)
    for kept, fill, edge, size in ((~ended, style.PAPER, look.color, 4.2), (ended, look.color, style.INK, 6.0)):
        if kept.any():
            axes.plot(across[kept], up[kept], linestyle="", marker=look.marker, markersize=size, zorder=3, markerfacecolor=fill,
                      markeredgecolor=edge, markeredgewidth=0.9)


def seed_curves(axes, rows: pd.DataFrame, x: str, look: Look, y: str = "score", log: bool = True, size: float = 4.5) -> None:
    """Draws runs that differ only in seed: a single run as it is; several as thin lines with their mean (geometric with ``log``) and its
    interval, or each as it is if they share no x; more than ``seeds.MOST_LINES`` as their median and a band.
    """
    count = rows["run_id"].nunique()
    if count > seeds.MOST_LINES and len(found := seeds.spread(rows, x, y)):
        band(axes, found, look, size)
        return
    mean = seeds.over_seeds(rows, x, y, log)
    if count == 1 or mean.empty:
        for across, up, ended in runs.per_run(rows, x, y, "final"):
            run_curve(axes, across, up, ended, look)
        return
    runs.lines(axes, runs.curves(rows, x, y), color=look.color, linewidth=0.5, alpha=0.45, zorder=2)
    axes.plot(mean["x"], mean["mean"], color=look.color, linestyle=look.dashes, linewidth=look.width, zorder=3,
              marker=look.marker, markersize=size, markeredgecolor=style.PAPER, markeredgewidth=0.4)
    if mean["low"].notna().any():
        axes.fill_between(mean["x"], mean["low"], mean["high"], color=look.color, alpha=0.18, linewidth=0, zorder=1)


def band(axes, found: np.ndarray, look: Look, size: float) -> None:
    """Draws x, median and two quantiles ``(k, 4)``, with about ``MOST_MARKERS`` markers."""
    at, middle, low, high = found.T
    axes.fill_between(at, low, high, color=look.color, alpha=0.18, linewidth=0, zorder=1)
    axes.plot(at, middle, color=look.color, linestyle=look.dashes, linewidth=look.width, marker=look.marker, markersize=size, zorder=3,
              markevery=-(-len(at) // MOST_MARKERS), markeredgecolor=style.PAPER, markeredgewidth=0.4)


def seed_groups(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each set of runs that differ only in seed, in the order of the rows; each published run is a set. If there would be more
    than ``MOST_CURVES`` sets, runs that differ in other settings than model, variant and block design are one set too.
    """
    if "verified" in rows:
        return [own for _, own in rows.groupby("run_id", sort=False)]
    same = [name for name in ("model", "variant", "block", "recipe") if name in rows]
    if "recipe" in same and rows.groupby(same, dropna=False).ngroups > MOST_CURVES:
        same.remove("recipe")
    return [own for _, own in rows.groupby(same, sort=False, dropna=False)]


def mean_curves(rows: pd.DataFrame, x: str) -> list[tuple[str, np.ndarray]]:
    """For each set of ``seed_groups``, its model and the curve that ``seed_curves`` draws, ``(k, 2)``; without a mean, the runs' curves."""
    found = []
    for own in seed_groups(rows):
        many = own["run_id"].nunique() > seeds.MOST_LINES
        mean = seeds.spread(own, x)[:, :2] if many else seeds.over_seeds(own, x)[["x", "mean"]].to_numpy(float)
        found += [(own["model"].iloc[0], curve) for curve in ([mean] if len(mean) else runs.curves(own, x, "score"))]
    return found


def run_looks(rows: pd.DataFrame, markers: bool = True) -> Looks:
    """The look of each run of a table: by variant if there are several, else by block design, else by patch size and size.

    ``markers=False`` is for curves with many points: no markers, thinner lines.
    """
    first = rows.drop_duplicates("run_id").set_index("run_id")
    for column, color_of, names in (("variant", style.variant_color, {}), ("block", style.block_color, BLOCK_NAMES)):
        if first[column].nunique() > 1:
            looks = _by_kind(first, column, color_of, names)
            break
    else:
        looks = size_looks(rows)
    if markers:
        return looks
    for entry in looks.handles:
        entry.set_marker("")
    return looks._replace(runs={run_id: look._replace(marker="", width=0.65 * look.width) for run_id, look in looks.runs.items()})


def _by_kind(first: pd.DataFrame, column: str, color_of: Callable[[str], str], names: dict) -> Looks:
    """Color for the variant or block design, line and marker for the model."""
    lines = style.model_lines(list(first["model"].unique()))
    of_run = {run_id: Look(color_of(kind), *lines[model]) for run_id, kind, model in zip(first.index, first[column], first["model"])}
    kinds = variant_table.variants_in_order(first) if column == "variant" else [name for name in style.BLOCK_COLORS if name in set(first[column])]
    handles = [color_handle(color_of(kind), names.get(kind, kind)) for kind in kinds]
    handles += [handle(Look(style.MUTED, *line), study_table.short_name(model)) for model, line in lines.items()]
    what = {"variant": "training variant", "block": "block design"}[column]
    return Looks(of_run, handles, len(kinds), f"color for the {what}, line for the model")


def size_looks(rows: pd.DataFrame) -> Looks:
    """Color and marker for the patch size, width for the size."""
    first = rows.drop_duplicates("run_id").set_index("run_id")
    sizes, patches = study_table.sizes_in_order(first), sorted(first["patch_size"].unique())
    widths = style.widths_by_size(sizes)
    of_run = {run_id: Look(style.patch_color(patch), "-", style.patch_marker(patch), widths[size])
              for run_id, patch, size in zip(first.index, first["patch_size"], first["size"])}
    handles = [handle(Look(style.patch_color(p), "-", style.patch_marker(p)), f"patch size {p}") for p in patches]
    handles += [Line2D([], [], color=style.MUTED, linewidth=widths[size], label=size) for size in sizes]
    return Looks(of_run, handles, len(patches), "color for the patch size, thicker lines for larger models")


def legend(figure, handles: list[Line2D], columns: int = 4, break_after: int | None = None, handlelength: float = 2.4,
           columnspacing: float = 1.4) -> None:
    """A legend above all panels, read row by row; a new row begins after the first ``break_after`` entries. Of many entries it has the first.

    It has ``columns`` columns, or as many as fit the figure's width.
    """
    if len(handles) > MOST_ENTRIES:
        more = Line2D([], [], linestyle="", label=f"and {len(handles) - MOST_ENTRIES + 1} more")
        handles = [*handles[:MOST_ENTRIES - 1], more]
    for count in range(columns, 0, -1):
        drawn = _in_columns(handles, count, break_after)
        gaps = ((len(drawn) - 1) * columnspacing + MARGINS) * LEGEND_SIZE / 72
        inches = sum(max(_inches(entry, handlelength) for entry in column) for column in drawn) + gaps
        if inches <= figure.get_figwidth():
            break
    cells = [entry or Line2D([], [], linestyle="", label=" ") for column in drawn for entry in column]
    figure.legend(handles=cells, loc="outside upper left", ncols=len(drawn), handlelength=handlelength, columnspacing=columnspacing)


def _in_columns(handles: list[Line2D], columns: int, break_after: int | None) -> list[list[Line2D | None]]:
    """The entries of each column, with gaps where a row ends early."""
    cells: list[Line2D | None] = [*handles]
    if break_after is not None and break_after < len(handles):
        cells[break_after:break_after] = [None] * (-break_after % columns)
    cells += [None] * (-len(cells) % columns if len(cells) > columns else 0)
    return [cells[i::columns] for i in range(min(columns, len(cells)))]


def _inches(entry: Line2D | None, handlelength: float) -> float:
    """The width of a legend's entry: handle, gap and label."""
    if entry is None:
        return 0.0
    width, _, _ = text_to_path.get_text_width_height_descent(str(entry.get_label()), FontProperties(size=LEGEND_SIZE), ismath=False)
    return (width + (handlelength + 0.8) * LEGEND_SIZE) / 72


def patch_legend(figure, rows: pd.DataFrame, others: list[Line2D]) -> None:
    """A legend in one line above the axes: a dot per patch size, then ``others``."""
    handles = [Line2D([], [], linestyle="", marker="o", markersize=8, markerfacecolor=style.patch_color(p), markeredgecolor=style.INK,
                      markeredgewidth=0.6, label=f"patch size {p}") for p in sorted(rows["patch_size"].unique())] + others
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), handletextpad=0.2, columnspacing=0.9)


def log_or_linear(values) -> bool:
    """Whether an axis is logarithmic: positive values that span a factor of ten."""
    values = np.asarray(values, float)
    return bool(values.min() > 0 and values.max() >= 10 * values.min())
