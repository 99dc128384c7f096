"""The table of ``ditscale collect`` as a file that outlives its run directories: without paths of this machine, written whole, and with the rows of
runs that are only in it.

A row's text depends on its own values alone and rows have one order, so that a later table differs from this one only where results do.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ditscale.errors import UserError, count
from ditscale.studies.table import csv_table, ledger
from ditscale.writing import written_whole

SHEET = "sample_sheet"
SIGNS = ("run_id", "recipe", "images_seen", "final", "metric", "score", "passport", "passport_fields", "sample_seed")    # of a table of `collect`
COUNTS = ("unique_images", "base_width", "base_depth", "micro_batch", "zero_stage", "inference_parameters", "train_flops", "own_train_flops", "samples",
          "nfe", "sample_seed", "evaluation_flops", "threads")                 # whole numbers, which a table has as floats where one is unknown
EXACT = 2.0**53                                                                # from here on a float is not every whole number


@dataclass(frozen=True)
class Merged:
    """A table's rows as text, and what became of the table that was there.

    Attributes:
        added: runs of the study that are in the table now. kept: other runs, whose rows are as they were.
        held_back: runs of the study that are final in the table that was there and not in the study: its rows were kept.
    """

    rows: pd.DataFrame
    added: int
    kept: int
    held_back: list[str]


def portable(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The rows as they are written to a file in ``folder``: a sample sheet in it or below has its path from there, any other none."""
    if SHEET not in table:
        return table
    here = folder.resolve()
    return table.assign(**{SHEET: [_below(here, sheet) for sheet in table[SHEET]]})


def _below(folder: Path, sheet) -> str:
    path = Path(sheet).resolve() if isinstance(sheet, str) and sheet else None
    return path.relative_to(folder).as_posix() if path and path.is_relative_to(folder) else ""


def rows_of(study: Path, folder: Path) -> pd.DataFrame:
    """Every evaluation of a study as the text that a file in ``folder`` has; a table of ``ditscale collect`` without runs as it is.

    Raises:
        UserError: as ``ledger.collect``.
    """
    landed = ledger.landed_table(study)
    if landed and not _missing(landed):
        rows = _text(landed)
        return rows if landed.parent.resolve() == folder.resolve() else rows.assign(**{SHEET: ""})
    rows = portable(ledger.collect(study), folder)
    for name in {*COUNTS} & {*rows.columns}:
        rows = rows.assign(**{name: _whole(rows[name])})
    return _text(io.StringIO(rows.to_csv(index=False)))


def merged(new: pd.DataFrame, path: Path) -> Merged:
    """``rows_of`` a study and those of the runs that are only in the table at ``path``, which may be missing.

    Rows of a run in the study replace those in the file, unless they are final there and not in the study.

    Raises:
        UserError: the file is not a table of ``ditscale collect``.
    """
    old = read_text(path) if path.exists() else new.head(0)
    final = {name: set(rows.loc[rows["final"] == "True", "run_id"]) for name, rows in (("old", old), ("new", new))}
    held_back = sorted(set(new["run_id"]) & (final["old"] - final["new"]))
    new = new[~new["run_id"].isin(held_back)]
    kept = old[~old["run_id"].isin(new["run_id"])]
    rows = pd.concat([new, kept])[_columns(new, old)].fillna("")
    return Merged(_ordered(rows), new["run_id"].nunique(), kept["run_id"].nunique(), held_back)


def landed_file(landed: str) -> Path:
    """The table that ``--landed`` names, itself or by its folder. Raises UserError if there is none."""
    path = Path(landed) / ledger.LANDED if Path(landed).is_dir() else Path(landed)
    if not path.is_file():
        raise UserError(f"--landed {landed}: no file {path}; `ditscale collect STUDY --out {path}` writes one")
    return path


def read_text(path: Path) -> pd.DataFrame:
    """The rows of a table of ``ditscale collect``, every field as text.

    Raises:
        UserError: it cannot be read, is not such a table, is cut, or has a field that ``csv_table.read`` refuses, with its line.
    """
    if missing := _missing(path):
        raise UserError(f"{path} is not a table of `ditscale collect`: it has no column {missing[0]}")
    whole = path.read_bytes()
    if not whole.endswith(b"\n"):                                              # each line that `collect` writes does
        raise UserError(f"{path}, line {whole.count(10) + 1}: ends in the middle; the table was cut: take it whole, or `ditscale collect` it again")
    rows = _text(path)
    if len(rows):
        csv_table.read(path)
    return rows


def write(rows: pd.DataFrame, path: Path) -> None:
    """Writes rows of text; the file is the old one or the whole new one.

    Raises:
        UserError: it cannot be written.
    """
    with written_whole(path) as aside:
        rows.to_csv(aside, index=False, lineterminator="\n")


def words(found: Merged, path: Path, study: Path) -> list[str]:
    """What was added, in lines."""
    whence = f" ({count(found.added, 'run')} of {study}, {found.kept} only in the table)" if found.kept else ""
    lines = [f"{count(len(found.rows), 'row')}: {path}{whence}"]
    if found.held_back:
        lines.append(f"{count(len(found.held_back), 'run')} of {study} not taken, as finished in the table and not there: {', '.join(found.held_back)}")
    return lines


def _missing(path: Path) -> list[str]:
    there = csv_table.columns_of(path)
    return [name for name in SIGNS if name not in there]


def _text(source) -> pd.DataFrame:
    return pd.read_csv(source, dtype=str, keep_default_na=False)


def _whole(column: pd.Series) -> pd.Series:
    """Whole numbers among floats as integers."""
    if column.dtype != float:
        return column
    whole = (column % 1 == 0) & (column.abs() < EXACT)
    return column.astype(object).where(~whole, column.where(whole, 0).astype("int64"))


def _columns(new: pd.DataFrame, old: pd.DataFrame) -> list[str]:
    """All columns: the ledger's in its order, then the others."""
    there = dict.fromkeys([*old.columns, *new.columns])
    return [*(name for name in ledger.COLUMNS if name in there), *(name for name in there if name not in ledger.COLUMNS)]


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    numbers = ("train_flops", "images_seen", "sample_seed")
    keys = pd.DataFrame({name: pd.to_numeric(rows[name], errors="coerce") if name in numbers else rows[name] for name in ledger.ORDER})
    return rows.reset_index(drop=True).loc[keys.reset_index(drop=True).sort_values(list(ledger.ORDER)).index]
