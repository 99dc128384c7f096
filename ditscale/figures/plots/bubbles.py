"""Score by model size and patch size; a bubble's area is the model's forward compute, as in DiT's Figure 2, left (arXiv 2212.09748)."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from ditscale.figures.kit import labels, one_length, overlay as published_overlay, panels, script, study_table, style
from ditscale.figures.kit.overlay import Overlay

NAME = "bubbles"
LARGEST_BUBBLE_PT2 = 1300.0
SMALLEST_SEEN_PT2 = 5.0                                                 # a dot marks the center of smaller bubbles
COLUMNS = ["model", "size", "patch_size", "macs", "images_seen", "metric", "score", "seeds", "lowest", "highest"]


def draw(table: pd.DataFrame, overlay: Overlay | None = None) -> style.Drawing:
    """The figure, its points (one per model) and its caption.

    Raises:
        UserError: the scores are not comparable, no run has finished, or ``overlay`` has nothing at this number of images.
    """
    usable, left_out = study_table.scored(table)
    usable, unknown = study_table.known(usable, "macs", "forward compute")
    final, chosen = one_length.at_one_count(usable)
    models, sizes = _models(final).sort_values("macs", ascending=False, ignore_index=True), study_table.sizes_in_order(final)
    if overlay is not None:
        overlay = _placed(overlay.known("macs", "forward compute").at(final["images_seen"].max()).of_sizes(sizes), sizes)
    unit, symbol, words = style.macs_unit(models["macs"])
    with style.paper():
        figure, axes = style.new_axes()
        axes.set(xscale="linear", xlim=(-0.6, len(sizes) - (0.4 if overlay is None else 0.1)))
        areas = LARGEST_BUBBLE_PT2 * models["macs"] / models["macs"].max()
        _bubbles(axes, models, sizes, areas)
        _axes(axes, final, sizes, overlay)
        published_overlay.curves(axes, overlay, "place", zorder=5)
        _legends(figure, axes, models, areas, unit, symbol, overlay)
        _label_macs(axes, models, sizes, areas, unit, overlay)
    both = published_overlay.points(models, overlay, COLUMNS)
    return style.Drawing(NAME, figure, both, _caption(models, words, symbol, study_table.tokens_sentence(final) + chosen + left_out + unknown)
                         + published_overlay.caption(overlay))


def _models(final: pd.DataFrame) -> pd.DataFrame:
    """One row per model: the geometric mean over its runs, and their range."""
    rows = final.assign(log=np.log(final["score"]))
    models = rows.groupby("model", sort=False).agg(
        size=("size", "first"), patch_size=("patch_size", "first"), macs=("macs", "first"), images_seen=("images_seen", "max"),
        metric=("metric", "first"), log=("log", "mean"), seeds=("run_id", "nunique"), lowest=("score", "min"),
        highest=("score", "max")).reset_index()
    return models.assign(score=np.exp(models["log"])).drop(columns="log")


def _placed(overlay: Overlay, sizes: list[str]) -> Overlay:
    """Adds ``place``, the position of each row on the axis of sizes, and the columns of the points; a paper's seeds are not known."""
    place = [sizes.index(size) + 0.4 for size in overlay.rows["size"]]
    return Overlay(overlay.rows.assign(place=place, seeds=np.nan, lowest=np.nan, highest=np.nan), overlay.left_out)


def _bubbles(axes, models: pd.DataFrame, sizes: list[str], areas: pd.Series) -> None:
    """Draws small bubbles on top of large ones. A thin line joins the models of a patch size; a vertical one spans a model's seeds."""
    for patch, own in models.groupby("patch_size"):
        own = own.assign(x=[sizes.index(size) for size in own["size"]]).sort_values("x")
        axes.plot(own["x"], own["score"], color=style.patch_color(patch), linewidth=0.9, zorder=1)
        axes.vlines(own["x"], own["lowest"], own["highest"], color=style.MUTED, linewidth=1.5 * (own["seeds"] > 1), zorder=4)
    x = [sizes.index(size) for size in models["size"]]
    colors = [style.patch_color(patch) for patch in models["patch_size"]]
    axes.scatter(x, models["score"], s=areas, c=colors, edgecolors=style.INK, linewidths=0.6, zorder=3)
    small = areas < SMALLEST_SEEN_PT2
    axes.scatter(np.array(x)[small], models["score"][small], s=SMALLEST_SEEN_PT2, facecolors="none", edgecolors=style.INK,
                 linewidths=0.6, zorder=3)


def _axes(axes, final: pd.DataFrame, sizes: list[str], overlay: Overlay | None) -> None:
    parameters = final.groupby("size")["parameters"].median()
    names = [f"{size}\n{style.short_count(parameters[size], 2)}" if parameters[size] > 0 else size for size in sizes]
    tokens = study_table.tokens_words(final)
    axes.set_xlabel("Model size and its number of parameters" + (f"\n({tokens})" if tokens else ""))
    axes.set_xticks(range(len(sizes)), names)
    axes.grid(False, axis="x")
    style.log_axis(axes.yaxis, published_overlay.shown(final, overlay)["score"], style.score_label(final), pad=0.12)


def _legends(figure, axes, models: pd.DataFrame, areas: pd.Series, unit: float, symbol: str, overlay: Overlay | None) -> None:
    """Legends above the axes: color by patch size, and areas of the least, the middle and the most compute."""
    panels.patch_legend(figure, models, published_overlay.handles(overlay))
    order = models["macs"].sort_values().index
    shown = dict.fromkeys([order[len(order) // 3], order[2 * len(order) // 3], order[-1]])
    bubbles = [Line2D([], [], linestyle="", marker="o", markerfacecolor=style.GRID, markersize=np.sqrt(areas[i]),
                      markeredgecolor=style.INK, markeredgewidth=0.6, label=f"{models['macs'][i] / unit:.3g}") for i in shown]
    heading = Line2D([], [], linestyle="", label=f"area: {symbol} per image")
    axes.legend(handles=[heading, *bubbles], loc="lower left", bbox_to_anchor=(-0.1, 1.02), ncols=4, handlelength=3.9,
                handletextpad=0.3, columnspacing=1.0, borderpad=0.9, borderaxespad=0.0)


def _label_macs(axes, models: pd.DataFrame, sizes: list[str], areas: pd.Series, unit: float, overlay: Overlay | None) -> None:
    """Writes each bubble's MACs next to it, and the names of published results."""
    own = [(float(sizes.index(size)), score) for size, score in zip(models["size"], models["score"])]
    radii = list(np.sqrt(areas / np.pi))
    points, texts, others = published_overlay.names(overlay, "place")
    markers = [(*point, radius) for point, radius in zip(own, radii)] + published_overlay.markers(overlay, "place")
    lines = [np.column_stack([np.linspace(a[0], b[0], 12), np.geomspace(a[1], b[1], 12)]) for a, b in _pairs(models, sizes)]
    labels.place(axes, own + points, [f"{macs / unit:.3g}" for macs in models["macs"]] + texts, radii + others, markers=markers,
                 crossed=np.vstack(lines) if lines else None)


def _pairs(models: pd.DataFrame, sizes: list[str]) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """The two ends, each (place, score), of the lines that join bubbles."""
    for _, own in models.groupby("patch_size"):
        yield from pairwise(sorted((float(sizes.index(size)), score) for size, score in zip(own["size"], own["score"])))


def _caption(models: pd.DataFrame, words: str, symbol: str, note: str) -> str:
    seeds = ("one run per model" if models["seeds"].max() == 1 else
             "geometric means over a model's seeds, a vertical line from the best to the worst")
    return (f"{style.metric_name(models)} {study_table.when(models)} by model size and patch size, in the layout of DiT's Figure 2: the "
            f"area of a bubble, and the number next to it, is the forward compute in {words} ({symbol}) per image; {seeds}.{note}")


SCRIPT = script.figure(__doc__, draw, overlay=True)
main = SCRIPT.main
