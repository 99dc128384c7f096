"""Score against total training compute, one curve per model, as in DiT's Figure 9 (arXiv 2212.09748), with a power law.

Runs that differ only in seed are thin lines around their geometric mean, with its 95 % interval if there are three seeds or more.

The law is fitted to final evaluations, one per run, not to the lower envelope: the envelope picks the luckiest point
at each amount of compute, and its slope changes with the spacing of the checkpoints.
"""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from ditscale.figures.kit import labels, overlay as published_overlay, overtaking, panels, runs, script, seeds, study_table, style
from ditscale.figures.kit.overlay import Overlay
from ditscale.figures.plots import power_law
from ditscale.scaling.correlations import spearman

NAME = "training_compute"
COLUMNS = ["run_id", "model", "size", "patch_size", "seed", "images_seen", "train_flops", "metric", "score", "final",
           "floor"]
FLOOR_LABEL = "train vs held-out (floor)"


def draw(table: pd.DataFrame, overlay: Overlay | None = None, law: power_law.StudyLaw | None = None) -> style.Drawing:
    """The figure, its points and its caption. Fits the law if none is given.

    Raises:
        UserError: the scores are not comparable, no run has finished, or no row has a known training compute.
    """
    usable, left_out = study_table.scored(table)
    usable, unknown = study_table.known(usable, "train_flops", "training compute")
    if overlay is not None:
        overlay = overlay.known("train_flops", "training compute")
    law = law or power_law.fit_law(table, "train_flops")
    final, chosen = study_table.law_ends(usable)
    floor = study_table.floor_of(usable)
    with style.paper():
        figure, axes = style.new_axes(height=4.9)
        _curves(axes, usable)
        _axes(axes, published_overlay.shown(usable, overlay), law, floor)
        handles = [*_law(axes, law), *_floor_line(axes, floor)]
        published_overlay.curves(axes, overlay, "train_flops")
        _legends(figure, handles + published_overlay.handles(overlay), usable)
        _label_ends(axes, usable, law, overlay)
    caption = _caption(usable, final, law, floor, chosen + left_out + unknown) + published_overlay.caption(overlay)
    return style.Drawing(NAME, figure, published_overlay.points(usable, overlay, COLUMNS), caption)


def _curves(axes, usable: pd.DataFrame) -> None:
    looks = panels.size_looks(usable).runs
    for own in panels.seed_groups(usable):
        look = looks[own["run_id"].iloc[0]]
        panels.seed_curves(axes, own, "train_flops", look)
        if 1 < own["run_id"].nunique() <= seeds.MOST_LINES:             # the law is fitted to each run's end
            ends = own[own["final"].astype(bool)]
            axes.plot(ends["train_flops"], ends["score"], linestyle="", marker=look.marker, markersize=2.6, color=look.color, alpha=0.6,
                      markeredgewidth=0, zorder=3)


def _axes(axes, usable: pd.DataFrame, law: power_law.StudyLaw, floor: float | None) -> None:
    """Limits that hold the curves, the floor, the law, and its band up to 1.5 times beyond the scores."""
    shown = [*usable["score"], *([floor] if floor else [])]
    if law.fit.drawable:
        shown += list(law.fit.law.evaluate(law.fit.x_range))
    if law.fit.drawable and law.intervals.band is not None:
        band = law.intervals.band
        shown += list(np.clip([band.low.min(), band.high.max()], min(shown) / 1.5, max(shown) * 1.5))
    low, high = style.log_limits(usable["train_flops"])
    axes.set(xlabel="Training compute (FLOPs)", xlim=(low, high * (high / low) ** 0.06))     # room for the last labels
    style.power_ticks(axes.xaxis, *axes.get_xlim())
    style.log_axis(axes.yaxis, shown, style.score_label(usable))


def _law(axes, law: power_law.StudyLaw) -> list:
    """The fitted line over the range of its points, and its band; nothing if there is no fit."""
    if not law.fit.drawable:
        return []
    grid = np.geomspace(*law.fit.x_range, power_law.GRID_POINTS)
    line, = axes.plot(grid, law.fit.law.evaluate(grid), color=style.INK, linestyle=(0, (5, 2.5)), linewidth=1.3,
                      zorder=5, label=f"final points: score ∝ C$^{{{-law.law.alpha:.2f}}}$")
    band = law.intervals.band
    if band is None:
        return [line]
    shade = axes.fill_between(band.x, band.low, band.high, color=style.BAND, alpha=0.35, linewidth=0, zorder=1,
                              label="its 95 % band (profile)")
    return [line, shade]


def _floor_line(axes, floor: float | None) -> list:
    if floor is None:
        return []
    return [axes.axhline(floor, color=style.INK, linestyle=":", linewidth=1.4, zorder=1, label=FLOOR_LABEL)]


def _legends(figure, handles: list, usable: pd.DataFrame) -> None:
    """Legends above the axes: the patch sizes, then the law and the floor. Sizes are named at the curves' ends."""
    patches = [Line2D([], [], color=style.patch_color(p), marker=style.patch_marker(p), markersize=6, linewidth=1.8,
                      markeredgecolor=style.INK, markeredgewidth=0.6, label=f"patch size {p}")
               for p in sorted(usable["patch_size"].unique())]
    rows = max(len(patches), len(handles))
    blank = Line2D([], [], linestyle="", label=" ")
    columns = [*patches, *[blank] * (rows - len(patches)), *handles, *[blank] * (rows - len(handles))]
    figure.legend(handles=columns, loc="outside upper left", ncols=2, columnspacing=2.0)


def _label_ends(axes, usable: pd.DataFrame, law: power_law.StudyLaw, overlay: Overlay | None) -> None:
    """Writes each model's name at the end of its first curve, away from the curves and the law."""
    curves = panels.mean_curves(usable, "train_flops")
    along = [runs.between([curve for _, curve in curves])]
    ends = {model: tuple(curve[-1]) for model, curve in reversed(curves)}
    if law.fit.drawable:
        grid = np.geomspace(*law.fit.x_range, power_law.GRID_POINTS)
        along.append(np.column_stack([grid, law.fit.law.evaluate(grid)]))
    points, names, radii = published_overlay.names(overlay, "train_flops")
    labels.place(axes, list(ends.values()) + points, list(map(study_table.short_name, ends)) + names, [4.2] * len(ends) + radii,
                 markers=published_overlay.markers(overlay, "train_flops"), crossed=np.vstack(along))


def _caption(usable, final, law: power_law.StudyLaw, floor: float | None, left_out: str) -> str:
    ranks = spearman(final["train_flops"], final["score"])
    same_length = final["images_seen"].nunique() == 1
    counts = [own["run_id"].nunique() for own in panels.seed_groups(usable)]
    curves = ("one curve per run, open markers its checkpoints, the filled one its end. Thicker lines are larger models." if max(counts) == 1 else
              f"one curve per model, thicker for larger ones. {seeds.sentence(counts)}{_ends_words(counts)}")
    parts = [
        (f"{style.metric_name(usable)} against total training compute (2 FLOPs per multiply-add, forward and backward, "
         f"times images seen), after the layout of DiT's Figure 9: {curves}"),
        law_sentence(law),
        f"{law.fit.outlier_sentence}." if law.fit.outliers.found else "",
    ]
    if same_length:
        parts.append("The law's points saw the same number of images, so their compute differs only by model: this is the law "
                     "of model compute on another scale.")
    if ranks.status.ok:
        parts.append(f"Spearman's rank correlation of compute with score over the {len(final)} ends is "
                     f"{style.signed(ranks.value)}.")
    parts.append(overtaking.sentences(usable))
    if floor is not None:
        parts.append(f"The dotted line at {floor:.3g} is the score of training images against held-out images; the law "
                     "has no floor term, so do not extend it.")
    return " ".join(filter(None, parts)) + left_out


def _ends_words(counts: list[int]) -> str:
    return " Small filled markers are the runs' ends." if max(counts) <= seeds.MOST_LINES else ""


def law_sentence(law: power_law.StudyLaw) -> str:
    """The law in words, with its interval and the basis of that interval; or why there is none."""
    if not law.fit.drawable:
        return f"No power law: {law.fit.words}."
    fitted = (f"The dashed line is the least-squares power law through the {law.fit.n_points} ends, score "
              f"∝ C^−α with α = "
              f"{style.signed(law.law.alpha)}")
    if not law.intervals.status.ok:
        return f"{fitted}; no interval: {law.intervals.sentence}."
    alpha = law.intervals.coefficients["alpha"]
    return (f"{fitted} (95 % profile interval {style.signed(alpha.low)} to {style.signed(alpha.high)}, "
            f"{law.intervals.basis}), R² = {law.fit.r2:.3f} in logarithms.")


SCRIPT = script.figure(__doc__, draw, overlay=True)
main = SCRIPT.main
