"""A CSV that ``ditscale collect`` or ``analysis/table.py`` wrote, read back as the ledger would answer it."""

from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.errors import UserError

TEXT = ("run_id", "model", "size", "variant", "formulation", "metric", "passport", "passport_fields", "device", "sample_sheet")
NUMBERS = ("patch_size", "seed", "parameters", "tokens", "macs", "train_flops_per_image", "images_seen", "train_flops", "score",
           "floor", "samples", "guidance_scale", "nfe", "train_seconds")
MAY_BE_EMPTY = ("score", "floor", "train_seconds", "nfe", "samples", "guidance_scale", "sample_seed")
EMPTY = ("", "nan", "None")
TRUTH = {"True": True, "False": False}


def columns_of(path: Path) -> list[str]:
    """The header of a CSV.

    Raises:
        UserError: it cannot be read.
    """
    return list(_read(path, nrows=0).columns)


def read(path: Path) -> pd.DataFrame:
    """All rows; text that is missing is "", a number that may be missing is NaN.

    Raises:
        UserError: a column is missing, a field is no number, or there is no row.
    """
    raw = _read(path)
    seeds = "sample_seeds" if "sample_seeds" in raw else "sample_seed"      # of analysis/table.py, of ditscale collect
    missing = [name for name in (*TEXT, *NUMBERS, "final", seeds) if name not in raw]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(map(repr, missing))} of a table that `ditscale collect` wrote, and it is "
                        "no table of published results either (those have source, model, gflops, fid, verified, ...)")
    if raw.empty:
        raise UserError(f"{path} holds no evaluation")
    for name in raw.columns.difference(TEXT):
        strict = name in NUMBERS or name == seeds
        raw[name] = _truth(path, raw[name]) if name == "final" else _numbers(path, raw[name], strict)
    return raw


def _read(path: Path, **options) -> pd.DataFrame:
    """Every field as text: a passport of digits alone is no number."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, **options)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} cannot be read as a CSV: {error}") from None


def _truth(path: Path, column: pd.Series) -> pd.Series:
    wrong = np.flatnonzero(~column.isin(TRUTH))
    if wrong.size:
        raise UserError(f"{path}, line {wrong[0] + 2}: final '{column.iloc[wrong[0]]}' is neither True nor False")
    return column.map(TRUTH)


def _numbers(path: Path, column: pd.Series, strict: bool) -> pd.Series:
    """The column as numbers, whole ones as integers; one that we do not know stays text where it holds any."""
    empty = column.isin(EMPTY)
    numbers = pd.to_numeric(column.mask(empty), errors="coerce")
    wrong = np.flatnonzero(numbers.isna() & ~(empty & (not strict or column.name in MAY_BE_EMPTY)))
    if wrong.size and not strict:
        return column
    if wrong.size:
        raise UserError(f"{path}, line {wrong[0] + 2}: {column.name} '{column.iloc[wrong[0]]}' is no number")
    return numbers
