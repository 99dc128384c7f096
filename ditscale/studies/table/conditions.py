"""``--where column=value``: selects the rows that a figure or a prediction uses."""

import json
from collections.abc import Sequence

import pandas as pd

from ditscale.errors import UserError, did_you_mean


def where(table: pd.DataFrame, conditions: Sequence[str], unstated: bool = False) -> pd.DataFrame:
    """The rows that meet each ``column=value``, compared as text; ``column`` may also be a field of the passports.

    Args:
        unstated: keep rows whose passport does not have the field, as a validation loss has no sampler.

    Raises:
        UserError: a condition has another form, a column is unknown, or no row is left.
    """
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where '{condition}' is not of the form column=value, for example metric=fid")
        values = table[column] if column in table else _of_passports(table, column)
        if values is None:
            raise UserError(f"--where '{condition}': no column '{column}'{did_you_mean(column, table.columns)}")
        kept = table[(values.astype(str) == value) | (values.map(_short) == value)]
        if unstated and len(kept):
            kept = table[table.index.isin(kept.index) | values.isna()]
        if kept.empty:
            raise UserError(f"--where '{condition}' keeps no row; {column} is one of: {_counts(values)}")
        table = kept
    return table


def _of_passports(table: pd.DataFrame, field: str) -> pd.Series | None:
    """A field of each row's passport; None if no passport has it."""
    if "passport_fields" not in table:
        return None
    stated = [json.loads(fields or "{}") for fields in table["passport_fields"]]
    if not any(field in fields for fields in stated):
        return None
    return pd.Series([fields.get(field) for fields in stated], table.index, dtype=object)


def _short(value) -> str:
    """A whole number without ".0", as a user types it."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _counts(column: pd.Series) -> str:
    return ", ".join(f"{value} ({n} {'row' if n == 1 else 'rows'})" for value, n in column.value_counts(sort=False).items())
