"""Every metric of an evaluation, from FID to recall, in one figure, as in DiT's Figure 12 (arXiv 2212.09748).

One row per metric: left, each run against its training compute; right, the ends of runs against model MACs.
"""

import pandas as pd

from ditscale.evaluation.metrics.table import values
from ditscale.figures.kit import one_length, panels, script, seeds, study_table, style
from ditscale.scaling.correlations import Correlation, pearson_log_x
from ditscale.studies.table.ledger import VALUES

NAME = "metrics"
COLUMNS = ["run_id", "model", "size", "patch_size", "seed", "images_seen", "final", "train_flops", "macs", "metric", "score"]


def draw(table: pd.DataFrame) -> style.Drawing:
    """The figure, its points and its caption. A metric that no evaluation has gets no row.

    Raises:
        UserError: the scores are not comparable, or no run has finished.
    """
    rows, left_out = study_table.scored(table)
    for column, words in (("train_flops", "training compute"), ("macs", "forward compute")):
        rows, unknown = study_table.known(rows, column, words)
        left_out += unknown
    (final, chosen), held = one_length.ends(rows), held_by(rows)
    looks = panels.run_looks(rows)
    unit, symbol, words = style.macs_unit(rows["macs"])
    correlations = {}
    with style.paper():
        figure, grid = panels.grid(len(held), 2, row_height=1.55, legend_rows=2, sharex="col", sharey="row")
        for (left, right), (column, (label, higher, log)) in zip(grid, held.items()):
            for own in panels.seed_groups(rows.dropna(subset=[column])):
                panels.seed_curves(left, own, "train_flops", looks.runs[own["run_id"].iloc[0]], column, log)
            correlations[label] = _ends(right, final.dropna(subset=[column]), column, unit, looks)
            left.set_ylabel(f"{label}\n{'higher' if higher else 'lower'} is better")
            panels.value_axis(left, rows[column].dropna(), log, pad=0.08, apart=0.13, bins=5)
        panels.flops_axis(grid[-1][0], rows["train_flops"])
        style.log_axis(grid[-1][1].xaxis, rows["macs"] / unit, f"Model ({symbol} per image)", pad=0.10)
        figure.align_ylabels()
        panels.legend(figure, looks.handles, break_after=looks.kinds)
    return style.Drawing(NAME, figure, rows[[*COLUMNS, *(c for c in held if c != "score")]],
                         _caption(rows, final, correlations, looks, words) + chosen + left_out)


def held_by(rows: pd.DataFrame) -> dict[str, tuple[str, bool, bool]]:
    """The metrics in the rows, by column, the score first; the axis is logarithmic only if all values are positive."""
    found = {"score": (style.metric_name(rows), False, True)}
    for value in values():
        column = VALUES + value.name
        if not value.detail and column in rows and rows[column].notna().any():
            found[column] = value.label, value.higher_is_better, value.log_axis and bool((rows[column].dropna() > 0).all())
    return found


def _ends(axes, final: pd.DataFrame, column: str, unit: float, looks: panels.Looks) -> Correlation:
    """The ends of the runs, and Pearson's r of log MACs with the metric."""
    for run in final.itertuples():
        look = looks.runs[run.run_id]
        axes.plot(run.macs / unit, final.loc[run.Index, column], linestyle="", marker=look.marker, markersize=4.5 + look.width,
                  markerfacecolor=look.color, markeredgecolor=style.INK, markeredgewidth=0.5)
    r = pearson_log_x(final["macs"], final[column])
    axes.set_title(_correlation_text(r), loc="right", fontsize=9, pad=3)
    return r


def _correlation_text(r: Correlation) -> str:
    return f"r = {style.signed(r.value, 2)}, n = {r.n}" if r.status.ok else f"no r, n = {r.n}"


def _caption(rows: pd.DataFrame, final: pd.DataFrame, correlations: dict, looks: panels.Looks, words: str) -> str:
    values = ", ".join(f"{label} {style.signed(r.value)}" if r.status.ok else f"{label} not computed" for label, r in correlations.items())
    seen = " or ".join(f"{int(n):,}" for n in sorted(final["images_seen"].unique()))
    text = (f"Every metric of the evaluations, in the layout of DiT's Figure 12: at the left against training compute (2 FLOPs per "
            f"multiply-add), {_curves(rows)}, {looks.words}; at the right the ends of the finished runs, after {seen} images, against "
            f"the model's forward compute in {words} per image. Pearson's r of log MACs with each metric over "
            f"{study_table.count(len(final), 'run')}: {values}.")
    return text if len(correlations) > 1 else text + " The evaluations have no other metric: set evaluation.also."


def _curves(rows: pd.DataFrame) -> str:
    counts = [own["run_id"].nunique() for own in panels.seed_groups(rows)]
    if max(counts) == 1:
        return "one curve per run"
    return f"seeds as thin lines around their mean{' with its 95 % interval (Student)' if max(counts) >= seeds.MIN_SEEDS else ''}"


SCRIPT = script.figure(__doc__, draw)
main = SCRIPT.main
