"""What each variant optimised: every loss term and watched value of a run, as first and as last logged."""

from pathlib import Path

import pandas as pd

from ditscale.figures.kit import variant_table
from ditscale.rundir import RunDir, read_lines

PARTS = ("loss/", "watch/")
COLUMNS = ["run_id", "model", "variant", "seed", "term", "watched", "first", "last"]


def read(study_dir: Path, table: pd.DataFrame) -> pd.DataFrame:
    """One row a term of each run that is no baseline, by model, variant and seed; losses first. The first and last line
    that holds a term count: a masked run's unmasking stage, say, logs no reconstruction."""
    runs = table[table["variant"] != variant_table.BASELINE].drop_duplicates("run_id")
    smallest, place = runs.groupby("model")["parameters"].min(), variant_table.variants_in_order(runs).index
    runs = runs.assign(_model=runs["model"].map(smallest), _variant=runs["variant"].map(place))
    rows = []
    for run in runs.sort_values(["_model", "model", "_variant", "seed"]).itertuples():
        lines = read_lines(RunDir(study_dir / run.run_id).metrics)
        names = dict.fromkeys(name for line in lines for name in line if name.startswith(PARTS))
        for name in sorted(names, key=lambda name: name.startswith(PARTS[1])):
            values = [line[name] for line in lines if name in line]
            part, _, term = name.partition("/")
            rows.append((run.run_id, run.model, run.variant, run.seed, term, part == "watch", values[0], values[-1]))
    return pd.DataFrame(rows, columns=COLUMNS)


def warnings(study_dir: Path, table: pd.DataFrame) -> list[str]:
    """What the runs themselves warn of in their status, a collapse for one."""
    runs = [RunDir(study_dir / run_id) for run_id in sorted(table["run_id"].unique())]
    return [f"{run.run_id}: {run.status()['warning']}" for run in runs if run.status().get("warning")]
