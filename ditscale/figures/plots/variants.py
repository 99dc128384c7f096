"""Training variants compared: score against images seen and against training FLOPs.

For each model with two variants or more. Writes the figure, and variant_comparison.csv with the numbers at equal images and
at equal training FLOPs.
"""

import pandas as pd
from matplotlib.lines import Line2D

from ditscale.figures.kit import panels, script, seeds, study_table, style, variant_table

NAME = "variants"
COMPARISON = "variant_comparison.csv"
COLUMNS = ["run_id", "model", "variant", "seed", "images_seen", "train_flops", "metric", "score", "final", "floor"]
PANELS = (("images_seen", "images", panels.images_axis), ("train_flops", "flops", panels.flops_axis))


def draw(table: pd.DataFrame) -> style.Drawing:
    """The figure, its points, its caption, and variant_comparison.csv.

    Raises:
        UserError: the scores differ in more than the variant, or no model has two variants.
    """
    rows, left_out = variant_table.comparable(table)
    comparisons = variant_table.compare(table)
    floor = study_table.floor_of(rows)
    lines = style.model_lines(list(rows["model"].unique()))
    with style.paper():
        figure, [both] = panels.grid(1, 2, row_height=3.33, sharey=True)
        for axes, (column, standing, axis) in zip(both, PANELS):
            _curves(axes, rows, column, lines)
            _rulers(axes, comparisons, standing)
            axis(axes, rows[column])
        panels.score_axis(both, style.score_label(rows), rows["score"], floor)
        _legends(figure, rows, lines, floor)
    return style.Drawing(NAME, figure, rows[COLUMNS], _caption(rows, comparisons, floor, left_out),
                         tables={COMPARISON: variant_table.as_frame(comparisons).to_csv(index=False, lineterminator="\n")})


def _curves(axes, rows: pd.DataFrame, column: str, lines: dict) -> None:
    for own in panels.seed_groups(rows):
        look = panels.Look(style.variant_color(own["variant"].iloc[0]), *lines[own["model"].iloc[0]])
        panels.seed_curves(axes, own, column, look)


def _rulers(axes, comparisons: list[variant_table.VariantComparison], standing: str) -> None:
    """A thin vertical line through the scores that are compared, one per model."""
    for model in dict.fromkeys(row.model for row in comparisons):
        places = [getattr(row, standing) for row in comparisons if row.model == model]
        scores = [place.score for place in places if place.score is not None]
        if len(scores) > 1:
            axes.plot([places[0].at] * 2, [min(scores) / 1.12, max(scores) * 1.12], color=style.MUTED, linewidth=0.9,
                      zorder=1)


def _legends(figure, rows: pd.DataFrame, lines: dict, floor: float | None) -> None:
    """The legend above both panels: colors for the variants; in a new row, lines and markers for the models, and the rest."""
    variants = panels.variant_handles(rows)
    others = [panels.handle(panels.Look(style.MUTED, dashes, marker, 1.5), study_table.short_name(model))
              for model, (dashes, marker) in lines.items()]
    others.append(Line2D([], [], color=style.MUTED, linestyle="", marker="|", markersize=12, label="compared here"))
    others += [panels.floor_handle()] if floor else []
    panels.legend(figure, variants + others, max(4, len(variants)), len(variants), handlelength=2.6, columnspacing=1.6)


def _caption(rows: pd.DataFrame, comparisons: list[variant_table.VariantComparison], floor: float | None,
             left_out: str) -> str:
    parts = [
        f"{style.metric_name(rows)} of the training variants, against images seen at the left and against training "
        f"compute at the right: {_curve_words(rows)} A variant's cost relative to the baseline shifts its curve at the right. Thin vertical "
        "lines mark the largest image count, and at the most training FLOPs, that all variants of a model share.",
        seeds_sentence(comparisons) + variant_table.outlier_words(comparisons), study_table.floor_sentence(floor),
    ]
    return " ".join(filter(None, parts)) + left_out


def _curve_words(rows: pd.DataFrame) -> str:
    counts = [own["run_id"].nunique() for own in panels.seed_groups(rows)]
    if max(counts) == 1:
        return "one curve per run, color for the variant, line and marker for the model, the filled marker its end."
    return f"one curve per model and variant, color for the variant, line and marker for the model. {seeds.sentence(counts)}"


def seeds_sentence(comparisons: list[variant_table.VariantComparison]) -> str:
    """What can be concluded with this number of seeds."""
    seeds = [min(row.images.seeds, row.flops.seeds) for row in comparisons if row.images.seeds and row.flops.seeds]
    if max(seeds, default=1) == 1:
        return "One seed per variant: no difference here is distinguishable from seed noise."
    return ("Intervals are Welch's, 95 %, on the logarithms of the scores, for three seeds or more of both variants; "
            "they are not corrected for the number of comparisons.")


SCRIPT = script.figure(__doc__, draw)
main = SCRIPT.main
