"""Validation loss of each run: over training, and by tenth of the noise levels at the end, as each tenth follows its own law
(Abra, arXiv 2608.17286)."""

import pandas as pd

from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import BUCKETS, IN_BUCKETS, LOSS
from ditscale.figures.kit import panels, script, seeds, study_table, style
from ditscale.studies.table.ledger import VALUES

NAME = "validation"
ONE_OF_EACH = ("metric", "passport", "formulation")                            # the loss is the same quantity for all variants
IN_BUCKET = [VALUES + name for name in IN_BUCKETS]
COLUMNS = ["run_id", "model", "size", "patch_size", "variant", "seed", "images_seen", "train_flops", "final", "metric", "score"]


def losses(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of validation losses.

    Raises:
        UserError: there are none.
    """
    kept = table[table["metric"] == LOSS].reset_index(drop=True)
    if kept.empty:
        raise UserError("the study has no validation loss; give its spec evaluation.validation: {path: HELDOUT.beton}, or run "
                        "`ditscale validate RUN --data HELDOUT.beton` on its runs")
    return kept


def draw(table: pd.DataFrame) -> style.Drawing:
    """The figure, its points and its caption.

    Raises:
        UserError: there is no validation loss, or the losses are not comparable.
    """
    rows, left_out = study_table.scored(losses(table), ONE_OF_EACH)
    rows = rows.reindex(columns=[*rows.columns, *(name for name in IN_BUCKET if name not in rows)])
    looks = panels.run_looks(rows)
    last = rows.sort_values("images_seen").groupby("run_id", sort=False).tail(1)
    with style.paper():
        figure, [[over, by_level]] = panels.grid(1, 2, row_height=3.2, legend_rows=2)
        for own in panels.seed_groups(rows):
            panels.seed_curves(over, own, "images_seen", looks.runs[own["run_id"].iloc[0]], size=3.4)
        panels.images_axis(over, rows["images_seen"])
        panels.score_axis([over], style.score_label(rows), rows["score"])
        for run in last.to_dict("records"):
            look = looks.runs[run["run_id"]]
            by_level.plot([(index + 0.5) / BUCKETS for index in range(BUCKETS)], [run[name] for name in IN_BUCKET], color=look.color,
                          linestyle=look.dashes, linewidth=look.width, marker=look.marker, markersize=3.4)
        by_level.set(xlabel="Noise level (quantile in training)", ylabel="Validation loss at the end", xlim=(0, 1), ylim=(0, None))
        panels.legend(figure, looks.handles, break_after=looks.kinds)
    return style.Drawing(NAME, figure, rows[[*COLUMNS, *IN_BUCKET]], _caption(rows, looks) + left_out)


def _caption(rows: pd.DataFrame, looks: panels.Looks) -> str:
    draws = " or ".join(f"{count:,}" for count in study_table.sample_counts(rows))
    counts = [own["run_id"].nunique() for own in panels.seed_groups(rows)]
    return (f"Validation loss of averaged weights on {draws} frozen draws of held-out images (the same image, flip, noise and noise level "
            f"for every run), {looks.words}. Left: over images seen. Right: each run's last, by tenth of the noise levels, least noise at the "
            f"left. {seeds.sentence(counts)}")


SCRIPT = script.figure(__doc__, draw, every_metric=True)
main = SCRIPT.main
