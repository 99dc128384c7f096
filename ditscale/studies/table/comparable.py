"""Which scores can be compared: the check that figures, frontiers and multipliers share."""

import json
from collections.abc import Callable

import pandas as pd

from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import LOSS
from ditscale.evaluation.passport import differences


def main_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that figures and verdicts show unless ``metric=NAME`` is given: validation losses where the study's file names the loss as its metric,
    or has no score; else its scores."""
    is_loss = table["metric"] == LOSS
    wants_loss = is_loss.any() and "study_metric" in table and set(table["study_metric"].dropna()) == {LOSS}
    shown = is_loss if wants_loss or is_loss.all() else ~is_loss
    return table[shown].reset_index(drop=True)


def trunks(table: pd.DataFrame) -> pd.Series:
    """The unit of chance of each row: its run, or for a branch the trunk, whose luck all its branches share."""
    return table["trunk"] if "trunk" in table else table["run_id"]


def require_one(table: pd.DataFrame, columns: tuple[str, ...], keep: Callable[[str, object], str]) -> None:
    """Refuses a table of the ledger with more than one value in one of these columns.

    Args:
        keep: returns what a user would write to keep only one value, given the column and the value.

    Raises:
        UserError: the message has the values with their counts, for passports the differing fields, and how to keep one.
    """
    for column in columns:
        if table[column].nunique() > 1:
            found = ", ".join(f"{value} ({n} {'row' if n == 1 else 'rows'})" for value, n in table[column].value_counts(sort=False).items())
            what = what_differs(table) if column == "passport" else ""
            what = f" ({what})" if what else ""
            raise UserError(f"the table mixes {column}: {found}{what}. Scores that differ in {column} are not compared; keep one with "
                            + keep(column, table[column].iloc[0]))


def what_differs(table: pd.DataFrame) -> str:
    """The fields in which the table's passports differ, with their values."""
    return "; ".join(f"{name} {', '.join(values)}" for name, values in differing_fields(table).items())


def differing_fields(table: pd.DataFrame) -> dict[str, list[str]]:
    """The fields in which the table's passports differ, with their values as text."""
    first, *others = (json.loads(stated) for stated in table.drop_duplicates("passport")["passport_fields"])
    values: dict[str, list[str]] = {}
    for other in others:
        for name, here, there in differences(first, other):
            values.setdefault(name, [str(here)]).append(str(there))
    return {name: list(dict.fromkeys(found)) for name, found in values.items()}
