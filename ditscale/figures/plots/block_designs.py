"""Block designs of one model, score over images seen and over training FLOPs, as in DiT's Figure 5 (arXiv 2212.09748)."""

import pandas as pd

from ditscale.errors import UserError
from ditscale.figures.kit import panels, script, seeds, study_table, style

NAME = "block_designs"
ALIKE = (*study_table.ONE_OF_EACH, "model", "lr", "global_batch", "data")        # must be equal in all runs
COLUMNS = ["run_id", "model", "block", "seed", "images_seen", "train_flops", "metric", "score", "final", "floor"]


def draw(table: pd.DataFrame) -> style.Drawing:
    """The figure, its points and its caption.

    Raises:
        UserError: runs differ in more than the block design, or there is only one design.
    """
    study_table.require_columns(table, ("block",))
    rows, left_out = study_table.scored(table, tuple(name for name in ALIKE if name in table))
    blocks = [name for name in panels.BLOCK_NAMES if name in set(rows["block"])]
    if len(blocks) < 2:
        there = ", ".join(map(str, rows["block"].unique()))
        raise UserError(f"only one block design, {there}: give a study that varies model.block: {', '.join(panels.BLOCK_NAMES)}")
    floor = study_table.floor_of(rows)
    looks = {block: panels.Look(style.BLOCK_COLORS[block], *line)
             for block, line in style.model_lines(list(panels.BLOCK_NAMES)).items()}
    with style.paper():
        figure, [[left, right]] = panels.grid(1, 2, row_height=3.4, sharey=True)
        for block in blocks:
            for axes, x in ((left, "images_seen"), (right, "train_flops")):
                panels.seed_curves(axes, rows[rows["block"] == block], x, looks[block])
        panels.images_axis(left, rows["images_seen"])
        panels.flops_axis(right, rows["train_flops"])
        panels.score_axis((left, right), style.score_label(rows), rows["score"], floor)
        handles = [panels.handle(looks[block], panels.BLOCK_NAMES[block]) for block in blocks]
        panels.legend(figure, [*handles, *([panels.floor_handle()] if floor else [])], break_after=len(blocks))
    return style.Drawing(NAME, figure, rows[COLUMNS], _caption(rows, blocks, floor) + left_out)


def _caption(rows: pd.DataFrame, blocks: list[str], floor: float | None) -> str:
    by_block = {block: rows[rows["block"] == block] for block in blocks}
    per_image = {block: (own["train_flops"] / own["images_seen"]).iloc[0] for block, own in by_block.items()}
    cheapest = min(per_image.values())
    costs = ", ".join(f"{panels.BLOCK_NAMES[block]} {cost / cheapest:.2f}" for block, cost in per_image.items())
    parts = [
        f"{style.metric_name(rows)} of {rows['model'].iloc[0]} by block design, against images seen at the left and against "
        "training compute (2 FLOPs per multiply-add) at the right, in the layout of DiT's Figure 5. "
        f"Training FLOPs per image, as multiples of the cheapest: {costs}.",
        seeds.sentence([own["run_id"].nunique() for own in by_block.values()]), study_table.floor_sentence(floor),
    ]
    return " ".join(filter(None, parts))


SCRIPT = script.figure(__doc__, draw)
main = SCRIPT.main
