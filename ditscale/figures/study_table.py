"""From a study directory to the rows that one figure may hold: the command line of all scripts, and its refusals.

Every script takes ``<study directory> [--out DIR] [--where column=value ...]``. ``--where`` keeps some rows, which is
how a study that was scored in two ways, or holds two variants, is drawn one at a time.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.errors import UserError, did_you_mean
from ditscale.evaluation.passport import differences
from ditscale.studies import ledger

ONE_OF_EACH = ("metric", "passport", "variant", "formulation")     # scores that differ in one of these share no axis


def run_script(description: str, make: Callable[[pd.DataFrame, Path, Path], list[Path]], argv: list[str] | None) -> int:
    """The body of each script's ``main``: read the arguments and the ledger, make the files, print their paths.

    Args:
        description: the script's docstring, its first line becomes the help text.
        make: ``(table, study directory, output directory) -> paths written``.

    Returns:
        the exit code: 2 where the user has something to mend, told in one line.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("study", type=Path, help="the study's directory, for example runs/digits-demo")
    parser.add_argument("--out", type=Path, help="where the files go; <study>/analysis without it")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE",
                        help="keep only these rows; may be given several times")
    arguments = parser.parse_args(argv)
    out = arguments.out or arguments.study / "analysis"
    try:
        table = where(read(arguments.study), arguments.where)
        out.mkdir(parents=True, exist_ok=True)
        for path in make(table, arguments.study, out):
            print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def read(study_dir: Path) -> pd.DataFrame:
    """One row an evaluation, from the study's ledger; a score, floor or time that is not known is NaN.

    Where a checkpoint was scored on several seeds of samples, the row has the mean score and ``sample_seeds`` says how many.

    Raises:
        UserError: there is no such directory, no run or no evaluation in it.
    """
    table = ledger.collect(study_dir)
    if table.empty:
        raise UserError(f"study '{study_dir}' holds no evaluation yet")
    table = table.astype({"score": float, "floor": float, "train_seconds": float})
    one_score = ["run_id", "images_seen", "passport"]
    repetitions = table.groupby(one_score)
    table["score"] = repetitions["score"].transform("mean")
    table["sample_seed"] = repetitions["sample_seed"].transform("nunique")
    return table.drop_duplicates(one_score, ignore_index=True).rename(columns={"sample_seed": "sample_seeds"})


def where(table: pd.DataFrame, conditions: list[str]) -> pd.DataFrame:
    """The rows that meet each ``column=value``, values compared as text.

    Raises:
        UserError: a condition of another form, an unknown column, or no row left.
    """
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where '{condition}' is not of the form column=value, for example metric=fid")
        if column not in table:
            raise UserError(f"--where '{condition}': no column '{column}'{did_you_mean(column, table.columns)}")
        kept = table[table[column].astype(str) == value]
        if kept.empty:
            raise UserError(f"--where '{condition}' keeps no row; {column} is one of: {_counts(table[column])}")
        table = kept
    return table


def require_comparable(table: pd.DataFrame, one_of_each: tuple[str, ...] = ONE_OF_EACH) -> None:
    """Refuses a table whose scores may not share an axis.

    Raises:
        UserError: more than one value in one of these columns; the message names the values.
    """
    for column in one_of_each:
        if table[column].nunique() > 1:
            what = _what_differs(table) if column == "passport" else ""
            raise UserError(
                f"the table mixes {column}: {_counts(table[column])}{f' ({what})' if what else ''}. Scores that differ in {column} are not compared; "
                f"keep one with --where {column}={table[column].iloc[0]}"
            )


def _what_differs(table: pd.DataFrame) -> str:
    """The fields in which the table's passports differ, with their values."""
    first, *others = (json.loads(stated) for stated in table.drop_duplicates("passport")["passport_fields"])
    values = {}
    for other in others:
        for name, here, there in differences(first, other):
            values.setdefault(name, [str(here)]).append(str(there))
    return "; ".join(f"{name} {', '.join(dict.fromkeys(found))}" for name, found in values.items())


def scored(table: pd.DataFrame, one_of_each: tuple[str, ...] = ONE_OF_EACH) -> tuple[pd.DataFrame, str]:
    """The rows whose score has a logarithm, smallest model first, and a sentence on those left out ("" where none was).

    Raises:
        UserError: the scores are not comparable, or none is a positive number.
    """
    require_comparable(table, one_of_each)
    good = np.isfinite(table["score"]) & (table["score"] > 0)
    if not good.any():
        raise UserError(f"no score of {table['metric'].iloc[0]} is a positive number: nothing to draw on a log axis")
    bad = table[~good]
    left_out = ""
    if len(bad):
        runs = ", ".join(sorted(bad["run_id"].unique()))
        left_out = f" Left out, their score is no positive number: {count(len(bad), 'evaluation')} of {runs}."
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


def floor_of(table: pd.DataFrame) -> float | None:
    """The score of training images against held-out ones, or None where it is not known or has no logarithm."""
    floor = table["floor"].median()
    return float(floor) if floor > 0 else None


def sizes_in_order(table: pd.DataFrame) -> list[str]:
    """Size names, fewest parameters first."""
    return list(table.groupby("size")["parameters"].median().sort_values().index)


def short_name(model: str) -> str:
    """``DiT-nano/2`` -> ``nano/2``, for labels."""
    return model.removeprefix("DiT-")


def count(n: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _counts(column: pd.Series) -> str:
    return ", ".join(f"{value} ({count(n, 'row')})" for value, n in column.value_counts(sort=False).items())
