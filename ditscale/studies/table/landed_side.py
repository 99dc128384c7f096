"""One side of ``ditscale compare`` from a landed table: ``studies/STUDY/RUN_ID[@IMAGES]``, as if the run's directory were there."""

import json
from pathlib import Path

from ditscale.errors import UserError, did_you_mean
from ditscale.evaluation.compare import Side, side_at
from ditscale.studies.table import csv_table, ledger


def landed_side(text: str, conditions: dict[str, str] | None = None) -> Side | None:
    """The side; None where ``text`` names nothing in a folder with a landed table.

    Raises:
        UserError: the table has no such run or no such evaluation, or several kinds of them.
    """
    name, _, images = text.partition("@")
    run = Path(name)
    table = None if run.exists() else ledger.landed_table(run.parent)
    if table is None:
        return None
    rows = csv_table.read(table)
    own = rows[rows["run_id"] == run.name]
    if own.empty:
        raise UserError(f"{text}: {table} has no run '{run.name}'{did_you_mean(run.name, rows['run_id'].unique())}")
    flops = {row.images_seen: row.train_flops for row in own.itertuples()}
    lines = [{"images_seen": row.images_seen, "metric": row.metric, "score": row.score, "error": None if row.score_error != row.score_error else
              row.score_error, "passport": json.loads(row.passport_fields)} for row in own.itertuples() if row.score == row.score]
    return side_at(text, f"{run.name} in {table}", lines, images, conditions or {}, flops)
