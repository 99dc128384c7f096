"""Selects the rows of a study or a CSV that one figure can show, and refuses what cannot be compared."""

import shlex
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.errors import UserError
from ditscale.figures.kit import published
from ditscale.studies.table import comparable, csv_table, ledger
from ditscale.studies.table.sampling_cost import with_image_costs

ONE_OF_EACH = ("metric", "passport", "variant", "formulation")     # scores that differ in one of these cannot share an axis
MOST_NAMED = 6                                                     # models that a caption names one by one


def read(study: Path) -> pd.DataFrame:
    """One row per evaluation, from a study's directory or a CSV; an unknown score, floor or time is NaN.

    If a checkpoint was scored on several seeds of samples, the row has the mean score and ``sample_seeds`` says how many.
    Only verified published results are read.

    Raises:
        UserError: the directory or file does not exist, it has no run or no evaluation, or the CSV lacks a column.
    """
    if file := Path(study) if Path(study).is_file() else ledger.landed_table(Path(study)):
        return with_image_costs(_read_csv(file))
    table = ledger.collect(study)
    if table.empty:
        raise UserError(f"study '{study}' has no evaluation yet")
    return with_image_costs(_one_row_a_score(table))


def _read_csv(path: Path) -> pd.DataFrame:
    columns = csv_table.columns_of(path)
    if published.looks_published(columns):
        table = published.read(path)
        verified = table[table["verified"] == published.VERIFIED]
        if verified.empty:
            raise UserError(f"{path}: none of its {count(len(table), 'result')} is verified, and figures draw only verified ones")
        return verified.reset_index(drop=True)
    table = csv_table.read(path)
    return table if "sample_seeds" in table else _one_row_a_score(table)


def _one_row_a_score(table: pd.DataFrame) -> pd.DataFrame:
    """Replaces repetitions of a score (with other seeds of samples) by their mean."""
    table = table.astype({"score": float, "floor": float, "train_seconds": float})
    one_score = ["run_id", "images_seen", "passport"]
    repetitions = table.groupby(one_score)
    measured = ["score", *(column for column in table if column.startswith(ledger.VALUES))]
    table[measured] = repetitions[measured].transform("mean")
    table["sample_seed"] = repetitions["sample_seed"].transform("nunique")
    return table.drop_duplicates(one_score, ignore_index=True).rename(columns={"sample_seed": "sample_seeds"})


def read_runs(study_dir: Path) -> pd.DataFrame:
    """One row per run, evaluated or not, from the run's files: ``ditscale.studies.table.facts.COLUMNS``. Of a CSV the evaluated ones, with those of the
    columns that it has.

    Raises:
        UserError: the directory does not exist or has no run, or the CSV lacks a column.
    """
    return ledger.runs_of(csv_table.read(study_dir)) if Path(study_dir).is_file() else ledger.collect_runs(study_dir)


def require_columns(table: pd.DataFrame, names: tuple[str, ...]) -> None:
    """Refuses a table without these columns, such as one collected by an older version.

    Raises:
        UserError: a column is missing; the message names the first.
    """
    for name in names:
        if name not in table:
            raise UserError(f"the table has no column '{name}', which this figure needs; draw it from the study's directory")


def require_comparable(table: pd.DataFrame, one_of_each: tuple[str, ...] = ONE_OF_EACH) -> None:
    """Refuses a table with scores that cannot share an axis.

    Raises:
        UserError: one of these columns has several values; the message names them.
    """
    def keep(column: str, value) -> str:
        fields = comparable.differing_fields(table) if column == "passport" else {}
        field, values = next(iter(fields.items()), (column, [value]))
        return f"--where {shlex.quote(f'{field}={values[0]}')}"

    comparable.require_one(table, one_of_each, keep)


def scored(table: pd.DataFrame, one_of_each: tuple[str, ...] = ONE_OF_EACH) -> tuple[pd.DataFrame, str]:
    """The rows with a positive score, smallest model first, and a sentence on those left out ("" if none).

    Published results come from several papers' experiments: the largest set that can be compared is kept.

    Raises:
        UserError: the scores are not comparable, or none is positive.
    """
    left_out = ""
    if published.is_published(table):
        table, left_out = published.largest_comparable(table, one_of_each)
    require_comparable(table, one_of_each)
    good = np.isfinite(table["score"]) & (table["score"] > 0)
    if not good.any():
        raise UserError(f"no score of {table['metric'].iloc[0]} is a positive number: nothing to draw on a log axis")
    bad = table[~good]
    if len(bad):
        runs = ", ".join(sorted(bad["run_id"].unique()))
        left_out += f" Left out, their score is not a positive number: {count(len(bad), 'evaluation')} of {runs}."
    order = ["parameters", "macs", "run_id", "images_seen"]
    sizes = table.groupby("size")["parameters"].median()
    kept = table[good].assign(_size=table["size"].map(sizes)).sort_values(["_size", *order[1:]])
    return kept.drop(columns="_size").reset_index(drop=True), left_out


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of each finished run.

    Raises:
        UserError: no run has finished.
    """
    final = table[table["final"].astype(bool)].reset_index(drop=True)
    if final.empty:
        runs = count(table["run_id"].nunique(), "run")
        raise UserError(f"none of {runs} has finished: there is no final score to compare")
    return final


def tokens_words(rows: pd.DataFrame) -> str:
    """``39 to 794 tokens per parameter`` over rows of one number of images; "" where unknown. Sizes that are compared at equal images differ in it."""
    ratios = rows["tokens_per_parameter"].dropna() if "tokens_per_parameter" in rows else pd.Series(dtype=float)
    if ratios.empty:
        return ""
    low, high = (f"{ratio:.3g}" for ratio in (ratios.min(), ratios.max()))
    return f"{low if low == high else f'{low} to {high}'} tokens per parameter"


def tokens_sentence(rows: pd.DataFrame) -> str:
    """For a caption, which models have the least and the most tokens per parameter; "" if they are unknown or equal."""
    if not tokens_words(rows) or " to " not in tokens_words(rows):
        return ""
    least, most = (rows.loc[pick(rows["tokens_per_parameter"]), "model"].removeprefix("DiT-") for pick in (pd.Series.idxmin, pd.Series.idxmax))
    return (f" Equal images are not equal training for the size: {tokens_words(rows)}, from {least} to {most} (tokens of the whole image, parameters of "
            "the plain model).")


def known(rows: pd.DataFrame, column: str, words: str) -> tuple[pd.DataFrame, str]:
    """The rows with a known cost above 0 (axes are logarithmic), and a sentence on the others.

    Raises:
        UserError: no row has one.
    """
    good = rows[column] > 0
    if good.all():
        return rows, ""
    models = ", ".join(dict.fromkeys(rows.loc[~good, "model"]))
    if not good.any():
        raise UserError(f"{words} is not known for any row: {models}")
    return rows[good].reset_index(drop=True), f" Left out, their {words} is not known: {models}."


def law_ends(usable: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows that a law of training compute is fitted to, one per run, and a sentence on the choice ("" if it is each run's end).

    For published results, those at the one training length that most models have: a table with one model at 7M steps and the
    others at 400K does not determine one law for both.

    Raises:
        UserError: no run has finished.
    """
    if not published.is_published(usable):
        return finished(usable), ""
    models = usable.groupby("images_seen")["model"].nunique()
    at = models[models == models.max()].index.min()
    return usable[usable["images_seen"] == at].reset_index(drop=True), (
        f" The law is fitted to results at {at:,} images only." if len(models) > 1 else "")


def floor_of(table: pd.DataFrame) -> float | None:
    """The score of training images against held-out ones, or None if it is unknown or not positive."""
    floor = table["floor"].median()
    return float(floor) if floor > 0 else None


def floor_sentence(floor: float | None) -> str:
    """For a caption; "" without a floor."""
    return f"The dotted line at {floor:.3g} is the score of training images against held-out images." if floor else ""


def sizes_in_order(table: pd.DataFrame) -> list[str]:
    """Size names, fewest parameters first, or least compute first if parameters are unknown."""
    order = ["parameters", "macs", "train_flops_per_image"]
    medians = table.groupby("size")[[name for name in order if name in table]].median()
    return list(medians.sort_values(list(medians), kind="stable").index)


def sample_counts(rows: pd.DataFrame) -> list[int]:
    """The known numbers of generated images that scores were computed from."""
    return sorted({int(n) for n in rows["samples"].dropna()})


def when(final: pd.DataFrame) -> str:
    """The number of images seen at which the scores were taken, for a caption."""
    counts = final["images_seen"].unique()
    return f"at {counts[0]:,} images seen" if len(counts) == 1 else "of the last checkpoint"


def short_name(model: str) -> str:
    """``DiT-nano/2`` -> ``nano/2``, for labels."""
    return model.removeprefix("DiT-")


def models_words(models: Iterable[str]) -> str:
    """The distinct models of a caption in their order: ``nano/2``, ``femto/2 and nano/2``; of more than ``MOST_NAMED`` the first, the last, how many."""
    names = list(dict.fromkeys(map(short_name, models)))
    if len(names) > MOST_NAMED:
        return f"{len(names)} models from {names[0]} to {names[-1]}"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def count(n: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
