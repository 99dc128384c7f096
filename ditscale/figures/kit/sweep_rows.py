"""The rows of a sweep over one setting, at one shared image count, with all other settings equal.

The setting is a column of the table, a field of the passport, or a key of the run's config, searched in this order. If it is a field
of the passport, such as guidance, scores may differ only in that field.
"""

import json
from pathlib import Path

import pandas as pd

from ditscale.dotted import dotted_keys
from ditscale.errors import UserError, did_you_mean
from ditscale.evaluation.passport import SEED, Passport, differences, digest
from ditscale.figures.kit import study_table
from ditscale.studies.table import ledger

CURVE = ("model", "variant", "block")
HELD = ("data", "resolution", "mask_ratio", "lr", "global_batch", "precision")     # along a curve: constant, or changes with the setting
TIED = {"nfe": {"sampling_steps"}, "sampling_steps": {"nfe"}}
FIELDS = frozenset(Passport.__dataclass_fields__)


def with_value(table: pd.DataFrame, over: str, study: Path | None = None) -> pd.DataFrame:
    """The rows with the setting, its value in column ``value``.

    Raises:
        UserError: the name is not in the table, in its passports or, if ``study`` is a directory, in the runs' configs.
    """
    if over in table:
        values = table[over]
    elif over in FIELDS:
        values = table["passport_fields"].map(lambda stated: json.loads(stated).get(over))
    else:
        values = _from_configs(table, over, study)
    kept = table.assign(value=values)[values.notna().to_numpy()].reset_index(drop=True)
    if kept.empty:
        raise UserError(f"--over {over}: no evaluation records its {over}")
    return kept


def select(rows: pd.DataFrame, over: str, at: int | None = None) -> tuple[pd.DataFrame, list[str]]:
    """The rows at one image count, with their curve's name as column ``curve``; and the other settings that change with the setting.

    Args:
        rows: scored, as ``with_value`` returns them.
        at: images seen; default the largest count at which every run was evaluated.

    Raises:
        UserError: scores differ in more than the setting, it has only one value, or no run was evaluated at ``at``.
    """
    _require_one_passport(rows, over)
    counts = set.intersection(*(set(own["images_seen"]) for _, own in rows.groupby(["run_id", "value"])))
    if at is None and not counts:
        raise UserError("there is no image count at which every run was evaluated; choose one with --at, and runs without it are left out")
    chosen = rows[rows["images_seen"] == (max(counts) if at is None else at)]
    if chosen.empty:
        known = ", ".join(f"{n}" for n in sorted(rows["images_seen"].unique()))
        raise UserError(f"--at {at}: no evaluation after {at} images; there are evaluations after {known}")
    chosen = chosen.assign(curve=_curve_names(chosen, over))
    chosen = chosen[chosen.groupby("curve")["value"].transform("nunique") > 1]
    if chosen.empty:
        known = ", ".join(map(str, sorted(rows["value"].unique())))
        raise UserError(f"--over {over}: no model and variant has two values of it after {int(at or max(counts))} images; the values are {known}")
    chosen = chosen.assign(curve=_curve_names(chosen, over))
    return chosen.sort_values(["parameters", "curve", "value", "seed"], ignore_index=True), _moving_along(chosen, over)


def _from_configs(table: pd.DataFrame, over: str, study: Path | None) -> pd.Series:
    """The value of a dotted config key in each row's run; None if the run's config does not have it."""
    has_runs = study and study.is_dir() and not ledger.landed_table(study)
    flat = {run.run_id: dotted_keys(run.read_record()["config"]) for run in ledger.run_dirs(study)} if has_runs else {}
    known = sorted({*table.columns, *FIELDS, *(key for config in flat.values() for key in config)})
    if over not in known:
        what = ", passport field or config key of that name" if has_runs else " or passport field of that name (a table has no other config keys)"
        raise UserError(f"--over {over}: no column{what}{did_you_mean(over, known)}")
    return table["run_id"].map(lambda run_id: flat.get(run_id, {}).get(over))


def _require_one_passport(rows: pd.DataFrame, over: str) -> None:
    """Refuses passports that differ in more than the swept field and fields that follow from it."""
    field = _leaf(over)
    free = {field, *TIED.get(field, ())} & FIELDS
    stated = [json.loads(text) for text in rows.drop_duplicates("passport")["passport_fields"]]
    if not free:
        study_table.require_comparable(rows, ("passport",))
    if len({digest(passport, without=(SEED, *free)) for passport in stated}) > 1:
        first, *others = stated
        names = dict.fromkeys(name for other in others for name, _, _ in differences(first, other) if name not in free)
        differing = "; ".join(f"{name} {', '.join(dict.fromkeys(str(passport.get(name)) for passport in stated))}" for name in names)
        column = next((name for name in names if name in rows), None)
        hint = f"; keep one with --where {column}={rows[column].iloc[0]}" if column else ""
        raise UserError(f"the scores differ in more than {over}: {differing}. Only {over} may differ along a sweep{hint}")


def _curve_names(rows: pd.DataFrame, over: str) -> pd.Series:
    """A name for each curve: the model, with its variant and block design if these differ too."""
    parts = [name for name in CURVE if name in rows and name not in (over, _leaf(over))]
    parts = [name for name in parts if name == "model" or rows[name].nunique() > 1]
    return rows[parts].astype(str).agg(" ".join, axis=1).map(study_table.short_name)


def _moving_along(rows: pd.DataFrame, over: str) -> list[str]:
    """The settings that change with the swept one.

    Raises:
        UserError: a setting differs among runs with the same value, or two runs differ in nothing that the table shows.
    """
    moving = []
    for name in (name for name in HELD if name in rows and name not in (over, _leaf(over))):
        if (rows.groupby(["curve", "value"])[name].nunique() > 1).any():
            known = ", ".join(map(str, sorted(rows[name].unique())))
            raise UserError(f"runs of one curve also differ in {name}: {known}; keep one with --where {name}={rows[name].iloc[0]}")
        if (rows.groupby("curve")[name].nunique() > 1).any():
            moving.append(name)
    twice = rows[rows.duplicated(["curve", "value", "seed"], keep=False)]
    if len(twice):
        a, b = twice["run_id"].iloc[:2]
        raise UserError(f"two scores for {over} {twice['value'].iloc[0]} and seed {twice['seed'].iloc[0]}, from {a} and {b}: they differ in "
                        "something that the table does not show; keep one with --where run_id=")
    return moving


def _leaf(over: str) -> str:
    return over.rpartition(".")[2]
