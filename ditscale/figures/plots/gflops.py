"""Score against the model's forward compute, one bubble per model, as in DiT's Figure 8 (arXiv 2212.09748).

The paper's "Gflops" are multiply-adds counted once; here they are called MACs. Finished runs only, all at one number of images
seen if they share one.
"""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from ditscale.evaluation.metrics.table import LOSS
from ditscale.figures.kit import labels, one_length, overlay as published_overlay, panels, script, seeds, study_table, style
from ditscale.figures.kit.overlay import Overlay
from ditscale.scaling.correlations import Correlation, pearson_log_x

NAME = "gflops"
LARGEST_BUBBLE_PT2 = 420.0
COLUMNS = ["run_id", "model", "size", "patch_size", "seed", "parameters", "macs", "images_seen", "metric", "score"]


def correlation(table: pd.DataFrame) -> Correlation:
    """Pearson's r of log MACs with the score over the figure's points, published results excluded."""
    return _correlation(_points(table)[0])


def draw(table: pd.DataFrame, overlay: Overlay | None = None) -> style.Drawing:
    """The figure, its points and its caption.

    Raises:
        UserError: the scores are not comparable, or no run has finished, or ``overlay`` has nothing at this number of images.
    """
    final, note = _points(table)
    if overlay is not None:
        overlay = overlay.known("macs", "forward compute").at(final["images_seen"].max())
    r = _correlation(final)
    unit, symbol, words = style.macs_unit(final["macs"])
    with style.paper():
        figure, axes = style.new_axes()
        bubbles = _bubbles(final)
        areas = LARGEST_BUBBLE_PT2 * bubbles["parameters"] / final["parameters"].max()
        colors = [style.patch_color(p) for p in bubbles["patch_size"]]
        if len(bubbles) < len(final):
            axes.vlines(bubbles["macs"] / unit, bubbles["lowest"], bubbles["highest"], color=style.MUTED, linewidth=1.5, zorder=4)
        axes.scatter(bubbles["macs"] / unit, bubbles["score"], s=areas, c=colors, alpha=0.88, edgecolors=style.INK,
                     linewidths=0.6, zorder=3)
        shown = published_overlay.shown(final, overlay)
        tokens = study_table.tokens_words(final)
        style.log_axis(axes.xaxis, shown["macs"] / unit, style.macs_axis_label(symbol) + (f"\n({tokens})" if tokens else ""), pad=0.10)
        style.log_axis(axes.yaxis, shown["score"], style.score_label(final), pad=0.12)
        published_overlay.curves(axes, overlay, "macs", unit, zorder=5)
        _legends(figure, axes, final, overlay)
        _print_correlation(axes, r)
        _label_models(axes, bubbles, unit, areas, overlay)
    return style.Drawing(NAME, figure, published_overlay.points(final, overlay, COLUMNS),
                         _caption(final, r, words, study_table.tokens_sentence(final) + note) + published_overlay.caption(overlay))


def _points(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """One row per run, and sentences on what was left out or chosen."""
    usable, left_out = study_table.scored(table)
    usable, unknown = study_table.known(usable, "macs", "forward compute")
    usable, nameless = study_table.known(usable, "parameters", "number of parameters")
    final, chosen = one_length.at_one_count(usable)
    return final, chosen + left_out + unknown + nameless


def _bubbles(final: pd.DataFrame) -> pd.DataFrame:
    """The rows that are drawn: each run, or, where a model has many, its geometric mean with the ``lowest`` and ``highest``."""
    if final["model"].value_counts().max() <= seeds.MOST_LINES:
        return final
    own = final.assign(log=np.log(final["score"])).groupby("model", sort=False)
    means = own.agg(patch_size=("patch_size", "first"), parameters=("parameters", "median"), macs=("macs", "median"), log=("log", "mean"),
                    lowest=("score", "min"), highest=("score", "max")).reset_index()
    return means.assign(score=np.exp(means["log"]))


def _correlation(final: pd.DataFrame) -> Correlation:
    return pearson_log_x(final["macs"], final["score"])


def _legends(figure, axes, final: pd.DataFrame, overlay: Overlay | None) -> None:
    """Legends above the axes, where no model can be: color by patch size, and area by parameters."""
    panels.patch_legend(figure, final, published_overlay.handles(overlay))
    largest = final["parameters"].max()
    parameters = final.groupby("size")["parameters"].median()
    bubbles = [Line2D([], [], linestyle="", marker="o", markerfacecolor=style.GRID,
                      markersize=np.sqrt(LARGEST_BUBBLE_PT2 * parameters[s] / largest), markeredgecolor=style.INK,
                      markeredgewidth=0.6, label=f"{s} {style.short_count(parameters[s], 2)}")
               for s in study_table.sizes_in_order(final)]
    heading = Line2D([], [], linestyle="", label="parameters")
    axes.legend(handles=[heading, *bubbles], loc="lower left", bbox_to_anchor=(-0.13, 1.03), ncols=5, labelspacing=1.1,
                handlelength=2.0, handletextpad=0.5, columnspacing=0.8, borderaxespad=0.0)


def _print_correlation(axes, r: Correlation) -> None:
    value = style.signed(r.value, 2)
    text = f"Pearson r(log MACs, score) = {value}, n = {r.n}" if r.status.ok else f"no correlation, n = {r.n}"
    axes.text(0.025, 0.03, text, transform=axes.transAxes, fontsize=9, va="bottom",
              bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 2})


def _label_models(axes, final: pd.DataFrame, unit: float, areas: pd.Series, overlay: Overlay | None) -> None:
    """One label per model, at the first of its seeds."""
    first = final.drop_duplicates("model")
    all_radii = np.sqrt(areas / np.pi)
    points, names, radii = published_overlay.names(overlay, "macs", unit)
    markers = list(zip(final["macs"] / unit, final["score"], all_radii)) + published_overlay.markers(overlay, "macs", unit)
    labels.place(axes, list(zip(first["macs"] / unit, first["score"])) + points, list(map(study_table.short_name, first["model"])) + names,
                 list(all_radii[first.index]) + radii, markers=markers)


def _caption(final: pd.DataFrame, r: Correlation, words: str, note: str) -> str:
    value = style.signed(r.value) if r.status.ok else f"not computed ({r.status.sentence})"
    return (
        f"{style.metric_name(final)} {study_table.when(final)} against the model's forward compute in {words} per image, "
        f"in the layout of DiT's Figure 8. {_bubble_words(final)}, its area in proportion to the parameters. "
        f"Pearson's r of log MACs with the score is {value} over {study_table.count(len(final), 'run')}. "
        f"{_samples(final)}{note}"
    )


def _bubble_words(final: pd.DataFrame) -> str:
    if len(_bubbles(final)) == len(final):
        return "One bubble per run"
    return "One bubble per model at the geometric mean of its runs with a line from the best to the worst"


def _samples(final: pd.DataFrame) -> str:
    counts = " or ".join(f"{n:,}" for n in study_table.sample_counts(final))
    if set(final["metric"]) == {LOSS}:
        return f"The loss is of {counts} draws of a noise level, on held-out images." if counts else "The loss is of held-out images."
    return f"Scores use {counts} generated images." if counts else "The number of images per score is not stated."


SCRIPT = script.figure(__doc__, draw, overlay=True)
main = SCRIPT.main
