"""The study as one table: table.csv, one row per evaluation, every column of the ledger.

Mixed metrics and passports are kept, so that they can be seen here.
"""

from pathlib import Path

import pandas as pd

from ditscale.figures.kit.script import Script
from ditscale.studies.table.landing import portable
from ditscale.writing import writing

ORDER = ["model", "run_id", "images_seen"]


def write(table: pd.DataFrame, out: Path) -> list[Path]:
    """Writes ``table.csv``, rows by model, run and progress."""
    path = out / "table.csv"
    with writing(path):
        portable(table, out).sort_values(ORDER).to_csv(path, index=False, lineterminator="\n")
    return [path]


SCRIPT = Script(__doc__, lambda table, arguments, out: write(table, out), every_metric=True)
main = SCRIPT.main
