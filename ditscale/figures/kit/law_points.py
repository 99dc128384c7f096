"""The points of laws and isoFLOP curves: a size N, an amount of data D, the compute C = k N D, and a score.

In a study, N is a run's training FLOPs per image / 3 (its forward FLOPs if nothing is masked and there is no teacher), D is the
number of images seen, and k is 3. A CSV with columns N, D and score is used as it is. Its compute is the column train_flops or C, or
6 N D without either; a column run names runs with several points; a column budget states budgets.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.errors import UserError
from ditscale.figures.kit import one_length, published, study_table, style
from ditscale.models.macs import FORWARDS_PER_TRAINED_STEP
from ditscale.scaling.spending import Spending, fit_spending
from ditscale.studies.table import csv_table
from ditscale.studies.table.comparable import trunks

CSV_K = 6.0                                     # for a language model's parameters and tokens
PLAIN = ("N", "D", "score")
COMPUTE, BUDGET = ("train_flops", "C"), "budget"
UNIQUE = ("unique_images", "U")
STUDY_SIZE, STUDY_DATA = "Model size N (forward FLOPs per image)", "images seen"


@dataclass(frozen=True)
class LawPoints:
    """``rows`` has columns run, model, patch_size, macs, N, D, C and score, and budget if budgets are stated; ``spending`` is the rule
    for C; ``note`` says which rows of the table they are."""

    rows: pd.DataFrame
    spending: Spending
    metric: str
    size_label: str
    note: str
    context: dict

    @property
    def states_budgets(self) -> bool:
        return BUDGET in self.rows and bool(self.rows[BUDGET].notna().any())


def read(path: Path) -> pd.DataFrame:
    """A study's rows as ``study_table.read``, or those of a CSV with the columns ``PLAIN``.

    Raises:
        UserError: as ``study_table.read``, or a field of a CSV is not a number.
    """
    if not Path(path).is_file() or not set(PLAIN) <= set(csv_table.columns_of(path)):
        return study_table.read(path)
    raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name in (*PLAIN, *(name for name in (*COMPUTE, *UNIQUE, BUDGET) if name in raw)):
        empty = raw[name].isin(csv_table.EMPTY)
        numbers = pd.to_numeric(raw[name].mask(empty), errors="coerce")
        published.require_numbers(path, raw[name], numbers.isna() & ~(empty & (name not in ("N", "D"))))
        raw[name] = numbers
    return raw


def choose(table: pd.DataFrame, every_checkpoint: bool = False, at_one_length: bool = False) -> LawPoints:
    """The last evaluations of the finished runs; with ``every_checkpoint`` all evaluations; with ``at_one_length`` each run at the
    largest number of images that all share.

    Raises:
        UserError: the scores are not comparable, none is positive, or no run has finished.
    """
    if "passport" not in table:
        return _plain(table)
    usable, left_out = study_table.scored(table)
    usable, unknown = study_table.known(usable, "train_flops", "training compute")
    chosen, several = "", at_one_length and not every_checkpoint and one_length.has_several(study_table.finished(usable))
    if not every_checkpoint:
        usable, chosen = one_length.at_one_count(usable) if at_one_length else study_table.law_ends(usable)
    rows = usable.assign(run=trunks(usable), N=usable["train_flops"] / (FORWARDS_PER_TRAINED_STEP * usable["images_seen"]),
                         D=usable["images_seen"].astype(float), C=usable["train_flops"].astype(float)).reset_index(drop=True)
    kept = "every evaluation of each run" if every_checkpoint else one_length.KEPT.rstrip(".") if several else "the last evaluation of each finished run"
    context = {"kept": f"{kept}.{chosen}{left_out}{unknown}", "runs": sorted(rows["run"].unique().tolist()),
               "passport": str(rows["passport"].iloc[0]), "samples": study_table.sample_counts(rows),
               "N": "training FLOPs per image / 3", "D": STUDY_DATA, "k": float(FORWARDS_PER_TRAINED_STEP)}
    note = f" Scores have passport {context['passport']}.{chosen}{left_out}{unknown}"
    return LawPoints(rows, Spending(float(FORWARDS_PER_TRAINED_STEP)), style.metric_name(rows), STUDY_SIZE, note, context)


def unique(rows: pd.DataFrame) -> np.ndarray:
    """U of each row, the unique images (or tokens) of its data, ``(n,)``.

    Raises:
        UserError: no column has it, or not for every row.
    """
    name = next((name for name in UNIQUE if name in rows), None)
    if name is None:
        raise UserError(f"the form repeated needs the number of unique images: a column {' or '.join(UNIQUE)}; a study's runs have it from the data's manifest")
    values = rows[name].to_numpy(float)
    if not (np.isfinite(values) & (values > 0)).all():
        raise UserError(f"{name} is not known for run '{rows['run'][~(values > 0)].iloc[0]}': its data has no manifest, so its epochs are not known")
    return values


def _plain(table: pd.DataFrame) -> LawPoints:
    own = next((name for name in COMPUTE if name in table), None)
    used = ["N", "D", "score", *([own] if own else [])]
    good = (np.isfinite(table[used]) & (table[used] > 0)).all(axis=1)
    if not good.any():
        raise UserError(f"no row has a positive {', '.join(used[:-1])} and {used[-1]}: nothing to draw on log axes")
    rows = table[good].reset_index(drop=True)
    rule = Spending(CSV_K) if own is None else fit_spending(rows["N"], rows["D"], rows[own])
    rows = rows.assign(run=rows["run"] if "run" in rows else rows.index.astype(str), macs=rows["N"], patch_size=0,
                       C=rows[own] if own else CSV_K * rows["N"] * rows["D"], model=rows["N"].map(style.short_count))
    left = len(table) - len(rows)
    note = f" Left out, {', '.join(used[:-1])} or {used[-1]} is not a positive number: {study_table.count(left, 'row')}." if left else ""
    context = {"kept": f"every row.{note}", "N": "as given", "D": "as given", "k": rule.k, "compute": f"column {own}" if own else "6 N D",
               "compute_rule": rule.formula, "compute_rule_misfit": rule.misfit}
    return LawPoints(rows, rule, "score", "Size N (unit of the CSV)", note, context)
