"""Reads a CSV as rows of the ledger: from ``ditscale collect`` or ``analysis/table.py``, or a user's own.

A plain CSV has one row per evaluation and needs ``model``, ``score`` and ``images_seen``; ``csv_defaults`` fills in the rest (docs/csv.md).
"""

import csv
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.errors import UserError, did_you_mean
from ditscale.studies.table import csv_defaults

TEXT = ("run_id", "trunk", "model", "size", "variant", "method", "formulation", "block", "parametrization", "series", "recipe", "metric", "passport",
        "passport_fields", "device", "sample_sheet", "data", "precision", "strategy", "ditscale_version", "git_commit", "torch_version", "deepspeed_version",
        "forecast_basis", "study_metric")
POSITIVE = ("images_seen", "parameters", "tokens", "macs", "train_flops_per_image", "train_flops", "tokens_per_parameter", "samples", "nfe",
            "forwards_per_image", "unique_images", "steps", "global_batch")
NUMBERS = (*POSITIVE, "patch_size", "seed", "score", "floor", "guidance_scale", "train_seconds", "accelerator_hours", "sample_seed",
           "sample_seeds")
NEVER_EMPTY = ("images_seen", "seed", "sample_seeds")
EMPTY = ("", "nan", "NaN", "None")
TRUTH = {"True": True, "true": True, "1": True, "False": False, "false": False, "0": False}


def columns_of(path: Path) -> list[str]:
    """The header of a CSV.

    Raises:
        UserError: it cannot be read.
    """
    return list(_read(path, nrows=0).columns)


def read(path: Path, columns: dict[str, str] | None = None, constants: dict | None = None) -> pd.DataFrame:
    """All rows, with a value or a default in every column that figures and studies use; missing text is "", missing numbers are NaN.

    Args:
        columns: renames columns, ``{"fid": "score"}``. constants: columns with one value, ``{"metric": "fid"}``.

    Raises:
        UserError: a required column or value is missing, a field is not a number or not positive, or there is no row.
    """
    raw = _renamed(path, _read(path), columns or {}, constants or {})
    csv_defaults.require(path, raw.columns)
    if raw.empty:
        raise UserError(f"{path} has no evaluation")
    _refuse_short(path)
    for name in raw.columns.difference(TEXT):
        raw[name] = _truth(path, raw[name]) if name == "final" else _numbers(path, raw[name], name in NUMBERS)
    for name in ("model", "run_id"):
        if name in raw:
            _refuse(path, raw[name], raw[name].str.strip() == "", "is empty: each row needs one")
    if "passport_fields" in raw:
        raw["passport_fields"] = raw["passport_fields"].mask(raw["passport_fields"].isin(EMPTY), "{}")
        _refuse(path, raw["passport_fields"], ~raw["passport_fields"].map(_is_object), "is not a JSON object")
    if "sample_sheet" in raw:                                                  # as `ditscale collect` writes it: from the CSV's own folder
        raw["sample_sheet"] = [str(path.parent / sheet) if sheet else "" for sheet in raw["sample_sheet"]]
    return csv_defaults.complete(path, raw)


def _read(path: Path, **options) -> pd.DataFrame:
    """Every field as text: a passport of only digits is not a number."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, **options)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError):
        raise UserError(f"{path} is not a CSV of scores") from None


def _renamed(path: Path, raw: pd.DataFrame, columns: dict[str, str], constants: dict) -> pd.DataFrame:
    for old, new in columns.items():
        if old not in raw:
            raise UserError(f"{path} has no column '{old}'{did_you_mean(old, raw.columns) or '.'} It has {csv_defaults.words(raw.columns)}")
        if new in raw and new not in columns:
            raise UserError(f"{path} already has a column '{new}': '{old}' cannot get that name")
    raw = raw.rename(columns=columns)
    twice = raw.columns[raw.columns.duplicated()]
    if len(twice):
        raise UserError(f"{path} has two columns '{twice[0]}'")
    return raw.assign(**{name: str(value) for name, value in constants.items()})


def _truth(path: Path, column: pd.Series) -> pd.Series:
    _refuse(path, column, ~column.isin(TRUTH), "is neither True nor False")
    return column.map(TRUTH)


def _numbers(path: Path, column: pd.Series, strict: bool) -> pd.Series:
    """The column as numbers, whole ones as integers; an unknown column stays text if it has any text."""
    empty = column.isin(EMPTY)
    numbers = pd.to_numeric(column.mask(empty), errors="coerce")
    wrong = numbers.isna() & ~(empty & (column.name not in NEVER_EMPTY))
    if wrong.any() and not strict:
        return column
    _refuse(path, column, wrong, "is not a number")
    if column.name in POSITIVE:
        _refuse(path, column, ~empty & ~((numbers > 0) & np.isfinite(numbers)), "must be above 0; leave the field empty if it is unknown")
    return numbers


def _refuse(path: Path, column: pd.Series, wrong: pd.Series, why: str) -> None:
    """Raises UserError with the first wrong row; line 1 is the header."""
    places = np.flatnonzero(wrong)
    if places.size:
        more = f" ({places.size - 1} more like it)" if places.size > 1 else ""
        raise UserError(f"{path}, line {places[0] + 2}: {column.name} '{column.iloc[places[0]]}' {why}{more}")


def _refuse_short(path: Path) -> None:
    """Raises UserError with the first line that has fewer fields than the header, which pandas fills up: the file may have been cut there."""
    with open(path, newline="", encoding="utf-8") as file, suppress(csv.Error):
        lines = csv.reader(file, skipinitialspace=True)
        width = len(next(lines))
        for fields in lines:
            if 0 < len(fields) < width:
                raise UserError(f"{path}, line {lines.line_num}: has {len(fields)} of the header's {width} fields; was the file cut? An unknown field is empty")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
