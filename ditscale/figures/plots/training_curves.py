"""Score over images seen in small panels: fixed patch size above, fixed model size below, as in DiT's Figure 6
(arXiv 2212.09748)."""

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ditscale.figures.kit import labels, overlay as published_overlay, panels, runs, script, seeds, study_table, style
from ditscale.figures.kit.overlay import Overlay

NAME = "training_curves"
COLUMNS = ["run_id", "model", "size", "patch_size", "seed", "images_seen", "metric", "score", "final"]
WIDTH, HEIGHT = 7.6, 5.6                # inches: two columns of a journal page


def draw(table: pd.DataFrame, overlay: Overlay | None = None) -> style.Drawing:
    """The figure, its points and its caption. Unfinished runs are drawn as far as they got.

    Raises:
        UserError: the scores are not comparable.
    """
    usable, left_out = study_table.scored(table)
    sizes, patches = study_table.sizes_in_order(usable), sorted(usable["patch_size"].unique(), reverse=True)
    overlay = overlay and overlay.of_sizes(sizes, patches)
    shown = published_overlay.shown(usable, overlay)
    with style.paper():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
        by_patch = _panels(upper, [f"patch size {patch}" for patch in patches], shown)
        by_size = _panels(lower, [f"size {size}" for size in sizes], shown)
        widths = style.widths_by_size(sizes)
        for axes, column, value in [*((a, "patch_size", p) for a, p in zip(by_patch, patches)),
                                    *((a, "size", s) for a, s in zip(by_size, sizes))]:
            _curves(axes, usable[usable[column] == value], widths)
            published_overlay.curves(axes, overlay and Overlay(overlay.rows[overlay.rows[column] == value]), "images_seen", scale=0.65)
        _legend(figure, upper, patches, widths, overlay)
        for axes, patch in zip(by_patch, patches):
            _label_ends(axes, usable[usable["patch_size"] == patch], "size")
        for axes, size in zip(by_size, sizes):
            _label_ends(axes, usable[usable["size"] == size], "patch_size")
    return style.Drawing(NAME, figure, published_overlay.points(usable, overlay, COLUMNS),
                         _caption(usable, left_out) + published_overlay.caption(overlay, named=False))


def _panels(figure, titles: list[str], shown: pd.DataFrame) -> list:
    """A row of panels with shared scales."""
    row = list(figure.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0])
    xlim, ylim = style.log_limits(shown["images_seen"]), style.log_limits(shown["score"], pad=0.08)
    xlim = xlim[0], xlim[1] * (xlim[1] / xlim[0]) ** 0.16                # room for the names at the ends
    for axes, title in zip(row, titles):
        axes.set(xscale="log", yscale="log", xlim=xlim, ylim=ylim)
        axes.set_title(title, fontsize=9.5, loc="left")
        axes.grid(True, which="major")
        _image_ticks(axes.xaxis, *xlim)
        style.plain_log_ticks(axes.yaxis, *ylim)
    last = shown.sort_values("images_seen").groupby("run_id").tail(1)
    tokens = study_table.tokens_words(last) if last["images_seen"].nunique() == 1 else ""
    figure.supxlabel("Images seen" + (f" (at the end {tokens})" if tokens else ""), fontsize=10)
    figure.supylabel(style.score_label(shown), fontsize=10)
    return row


def _image_ticks(axis, low: float, high: float) -> None:
    """At most four ticks, as the panels are narrow, written as 10 k or 2.5 M."""
    every = [step * 10.0 ** power for power in range(13) for step in (1, 2, 5)]
    ticks = [tick for tick in every if low <= tick <= high]
    ticks = ticks[::max(1, -(-len(ticks) // 3))]
    axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: style.short_count(value).replace(" ", "")))
    axis.set_minor_locator(ticker.NullLocator())


def _curves(axes, rows: pd.DataFrame, widths: dict[str, float]) -> None:
    """One line per run with a marker at each evaluation, filled at the end of a finished run; seeds as thin lines around their mean."""
    for own in panels.seed_groups(rows):
        patch, width = own["patch_size"].iloc[0], widths[own["size"].iloc[0]]
        look = panels.Look(style.patch_color(patch), "-", style.patch_marker(patch), width)
        if own["run_id"].nunique() > 1:
            panels.seed_curves(axes, own, "images_seen", look, size=3.0)
            continue
        images, scores, ended = (own[name].to_numpy() for name in ("images_seen", "score", "final"))
        axes.plot(images, scores, color=look.color, linewidth=width, zorder=2)
        for kept, fill in ((~ended.astype(bool), style.PAPER), (ended.astype(bool), look.color)):
            axes.plot(images[kept], scores[kept], linestyle="", marker=look.marker, markersize=3.4, zorder=3, markerfacecolor=fill,
                      markeredgecolor=look.color, markeredgewidth=0.9)


def _legend(figure, upper, patches: list[int], widths: dict[str, float], overlay: Overlay | None) -> None:
    """The legend above all panels: color and marker for the patch size, thickness for the model size."""
    handles = [Line2D([], [], color=style.patch_color(p), marker=style.patch_marker(p), markersize=5, linewidth=1.6,
                      label=f"patch size {p}") for p in patches]
    handles += [Line2D([], [], color=style.MUTED, linewidth=width, label=size) for size, width in widths.items()]
    others = published_overlay.handles(overlay)
    wide, blank = len(handles), Line2D([], [], linestyle="", label=" ")
    rows = [handles, [*others, *[blank] * (wide - len(others))]] if others else [handles]
    figure.legend(handles=[row[i] for i in range(wide) for row in rows], loc="outside upper left", ncols=wide, columnspacing=1.2,
                  handlelength=1.8, handletextpad=0.5)


def _label_ends(axes, rows: pd.DataFrame, column: str) -> None:
    """Writes the size, or the patch size, at the mean end of each model's curves; in one column if all end at the same x."""
    ends = rows.groupby("run_id", sort=False).tail(1).assign(log=lambda last: np.log(last["score"]))
    ends = ends.groupby("model", sort=False).agg({column: "first", "images_seen": "max", "log": "mean"}).reset_index()
    ends["score"] = np.exp(ends["log"])
    names = [str(value) if column == "size" else f"/{value}" for value in ends[column]]
    points = list(zip(ends["images_seen"], ends["score"]))
    if ends["images_seen"].nunique() == 1:
        labels.stack(axes, points, names, size_pt=8.0)
    else:
        along = runs.between(runs.curves(rows, "images_seen", "score"))
        labels.place(axes, points, names, [3.4] * len(ends), crossed=along, size_pt=8.0)


def _caption(usable: pd.DataFrame, left_out: str) -> str:
    open_runs = usable["run_id"].nunique() - usable[usable["final"].astype(bool)]["run_id"].nunique()
    under_way = f" {study_table.count(open_runs, 'run')} not finished." if open_runs else ""
    counts = [own["run_id"].nunique() for own in panels.seed_groups(usable)]
    curves = ("One curve per run, open markers its checkpoints, the filled one the end of a finished run." if max(counts) == 1 else
              f"One curve per model. {seeds.sentence(counts)}")
    return (f"{style.metric_name(usable)} over images seen, in the layout of DiT's Figure 6: above, sizes at one patch size; below, patch "
            f"sizes at one model size. {curves} Thicker lines are larger models.{under_way}{left_out}")


SCRIPT = script.figure(__doc__, draw, overlay=True)
main = SCRIPT.main
