"""The points that laws and isoFLOP curves go through: a size N, an amount of data D, the compute C = k N D, and a score.

Of a study N is a run's training FLOPs an image / 3, which is its forward FLOPs where nothing is masked and nothing distilled, D the
images seen, and k 3. A CSV with columns N, D and score, and a column run where runs have several points, is taken as it is.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.cost.compute import FORWARDS_PER_TRAINED_STEP
from ditscale.errors import UserError
from ditscale.figures import csv_table, study_table, style

CSV_K = 6.0                                     # of a language model's parameters and tokens
PLAIN = ("N", "D", "score")
STUDY_SIZE, STUDY_DATA = "Model size N (forward FLOPs per image)", "images seen"


@dataclass(frozen=True)
class LawPoints:
    """``rows`` has columns run, model, patch_size, macs, N, D, C and score; ``note`` says which rows of the table they are."""

    rows: pd.DataFrame
    k: float
    metric: str
    size_label: str
    note: str
    context: dict


def read(path: Path) -> pd.DataFrame:
    """A study's rows as ``study_table.read``, or those of a CSV with the columns ``PLAIN``.

    Raises:
        UserError: as ``study_table.read``; or a field of such a CSV is no number.
    """
    if not Path(path).is_file() or not set(PLAIN) <= set(csv_table.columns_of(path)):
        return study_table.read(path)
    raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name in PLAIN:
        numbers = pd.to_numeric(raw[name].mask(raw[name].isin(csv_table.EMPTY)), errors="coerce")
        wrong = np.flatnonzero(numbers.isna() & ~(raw[name].isin(csv_table.EMPTY) & (name == "score")))
        if wrong.size:
            raise UserError(f"{path}, line {wrong[0] + 2}: {name} '{raw[name].iloc[wrong[0]]}' is no number")
        raw[name] = numbers
    return raw


def choose(table: pd.DataFrame, every_checkpoint: bool = False, at_one_length: bool = False) -> LawPoints:
    """The finished runs' last evaluations; with ``every_checkpoint`` all evaluations; with ``at_one_length`` each run at the
    largest count of images that all share.

    Raises:
        UserError: the scores are not comparable, none has a logarithm, or no run has finished.
    """
    if "passport" not in table:
        return _plain(table)
    usable, left_out = study_table.scored(table)
    usable, unknown = study_table.known(usable, "train_flops", "training compute")
    chosen = ""
    if not every_checkpoint:
        usable, chosen = study_table.at_one_count(usable) if at_one_length else (study_table.finished(usable), "")
    rows = usable.assign(run=usable["run_id"], N=usable["train_flops"] / (FORWARDS_PER_TRAINED_STEP * usable["images_seen"]),
                         D=usable["images_seen"].astype(float), C=usable["train_flops"].astype(float)).reset_index(drop=True)
    kept = "every evaluation of each run" if every_checkpoint else "the last evaluation of each finished run"
    context = {"kept": f"{kept}.{chosen}{left_out}{unknown}", "runs": sorted(rows["run"].unique().tolist()),
               "passport": str(rows["passport"].iloc[0]), "samples": sorted({int(n) for n in rows["samples"]}),
               "N": "training FLOPs an image / 3", "D": STUDY_DATA, "k": float(FORWARDS_PER_TRAINED_STEP)}
    note = f" Scores have passport {context['passport']}.{chosen}{left_out}{unknown}"
    return LawPoints(rows, float(FORWARDS_PER_TRAINED_STEP), style.metric_name(rows), STUDY_SIZE, note, context)


def _plain(table: pd.DataFrame) -> LawPoints:
    good = np.isfinite(table["score"]) & (table["score"] > 0) & (table["N"] > 0) & (table["D"] > 0)
    if not good.any():
        raise UserError("no row has a positive N, D and score: nothing to draw on log axes")
    rows = table[good].reset_index(drop=True)
    rows = rows.assign(run=rows["run"] if "run" in rows else rows.index.astype(str), C=CSV_K * rows["N"] * rows["D"], macs=rows["N"],
                       model=rows["N"].map(style.short_count), patch_size=0)
    left = len(table) - len(rows)
    note = f" Left out, N, D or score is no positive number: {study_table.count(left, 'row')}." if left else ""
    context = {"kept": f"every row.{note}", "N": "as given", "D": "as given", "k": CSV_K}
    return LawPoints(rows, CSV_K, "score", "Size N (unit of the CSV)", note, context)
