"""Score against the model's forward compute, one bubble a model: DiT's Figure 8 (arXiv 2212.09748).

The paper's "Gflops" are multiply-adds counted once; here they are called MACs. Final evaluations of finished runs only.
"""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from ditscale.figures import labels, study_table, style
from ditscale.scaling.correlations import Correlation, pearson_log_x

NAME = "gflops"
LARGEST_BUBBLE_PT2 = 420.0
COLUMNS = ["run_id", "model", "size", "patch_size", "seed", "parameters", "macs", "metric", "score"]


def correlation(table: pd.DataFrame) -> Correlation:
    """Pearson's r of log MACs with the score over the finished runs."""
    final = study_table.finished(study_table.scored(table)[0])
    return pearson_log_x(final["macs"], final["score"])


def draw(table: pd.DataFrame) -> style.Drawing:
    """The figure, its points and its caption.

    Raises:
        UserError: the scores are not comparable, or no run has finished.
    """
    usable, left_out = study_table.scored(table)
    final = study_table.finished(usable)
    r = pearson_log_x(final["macs"], final["score"])
    unit, symbol, words = style.macs_unit(final["macs"])
    with style.paper():
        figure, axes = style.new_axes()
        areas = LARGEST_BUBBLE_PT2 * final["parameters"] / final["parameters"].max()
        colours = [style.patch_colour(p) for p in final["patch_size"]]
        axes.scatter(final["macs"] / unit, final["score"], s=areas, c=colours, alpha=0.88, edgecolors=style.INK,
                     linewidths=0.6, zorder=3)
        _axes(axes, final, unit, symbol)
        _legends(figure, axes, final)
        _print_correlation(axes, r)
        _label_models(axes, final, unit, areas)
    return style.Drawing(NAME, figure, final[COLUMNS], _caption(final, r, words, left_out))


def _axes(axes, final: pd.DataFrame, unit: float, symbol: str) -> None:
    axes.set_xlabel(style.macs_axis_label(symbol))
    axes.set_ylabel(f"{final['metric'].iloc[0]} (lower is better)")
    limits = style.log_limits(final["macs"] / unit, pad=0.10), style.log_limits(final["score"], pad=0.12)
    axes.set(xlim=limits[0], ylim=limits[1])
    style.plain_log_ticks(axes.xaxis, *limits[0])
    style.plain_log_ticks(axes.yaxis, *limits[1])


def _legends(figure, axes, final: pd.DataFrame) -> None:
    """Above the axes, where no model can be: colour by patch size, and area by parameters."""
    patches = [Line2D([], [], linestyle="", marker="o", markersize=8, markerfacecolor=style.patch_colour(p),
                      markeredgecolor=style.INK, markeredgewidth=0.6, label=f"patch size {p}")
               for p in sorted(final["patch_size"].unique())]
    figure.legend(handles=patches, loc="outside upper left", ncols=len(patches), handletextpad=0.2, columnspacing=1.4)
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


def _label_models(axes, final: pd.DataFrame, unit: float, areas: pd.Series) -> None:
    """One label a model, at the first of its seeds."""
    first = final.drop_duplicates("model")
    radii = np.sqrt(areas / np.pi)
    names = [study_table.short_name(model) for model in first["model"]]
    labels.place(axes, list(zip(first["macs"] / unit, first["score"])), names, list(radii[first.index]),
                 markers=list(zip(final["macs"] / unit, final["score"], radii)))


def _caption(final: pd.DataFrame, r: Correlation, words: str, left_out: str) -> str:
    value = style.signed(r.value) if r.status.ok else f"not computed ({r.status.sentence})"
    return (
        f"{final['metric'].iloc[0]} of the last checkpoint against the model's forward compute in {words} per image, "
        f"after the layout of DiT's Figure 8. One bubble a run, its area in proportion to the parameters. "
        f"Pearson's r of log MACs with the score is {value} over {study_table.count(len(final), 'run')}. "
        f"Scores use {_samples(final)} generated images.{left_out}"
    )


def _samples(final: pd.DataFrame) -> str:
    return " or ".join(f"{int(n):,}" for n in sorted(final["samples"].unique()))


def main(argv: list[str] | None = None) -> int:
    return study_table.run_script(__doc__, lambda table, study, out: style.save(draw(table), out), argv)
