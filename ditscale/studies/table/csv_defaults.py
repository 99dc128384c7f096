"""Fills in missing columns of a plain CSV: derived from other columns, or unknown.

Nothing is guessed: a cost that does not follow from other columns is NaN, and what needs it says so.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.errors import UserError
from ditscale.evaluation.passport import SEED, digest
from ditscale.models.macs import FLOPS_PER_MAC, FORWARDS_PER_TRAINED_STEP
from ditscale.objectives import BASELINE
from ditscale.scaling.tokens import tokens_per_parameter

NOT_STATED = "not stated"
NEEDED = ("model", "score")
PROGRESS = (("images_seen",), ("steps", "global_batch"), ("train_flops", "train_flops_per_image"))    # any of these
WORDS = {"variant": BASELINE, "formulation": NOT_STATED, "block": NOT_STATED, "metric": "score", "passport_fields": "{}", "device": "",
         "sample_sheet": "", "study_metric": "", "forecast_basis": "", "ditscale_version": "", "git_commit": "", "torch_version": "", "deepspeed_version": ""}
UNKNOWN = ("forecast_train_seconds", "threads", "own_train_flops", "own_train_seconds", "own_accelerator_hours",
           "parameters", "tokens", "macs", "train_flops", "train_flops_per_image", "tokens_per_parameter", "floor", "samples", "guidance_scale", "nfe",
           "train_seconds", "accelerator_hours")
SETTINGS = ("formulation", "block", "mask_ratio", "data", "resolution", "lr", "global_batch", "precision")    # seeds of one recipe agree in these
NAME = re.compile(r"(?:.*-)?(?P<size>[^-/]+)/(?P<patch>\d+)")                                       # DiT-S/2


def require(path: Path, columns) -> None:
    """Refuses a header without the required columns.

    Raises:
        UserError: a column is missing; the message names it.
    """
    missing = [name for name in NEEDED if name not in columns]
    if not any(set(names) <= set(columns) for names in PROGRESS):
        missing.append("images_seen")
    if missing and "run_id" in columns:                                        # a table of runs beyond doubt: its other columns are no news
        raise UserError(f"{path} has no column {', '.join(map(repr, missing))}; a table of runs needs model, score and images_seen (docs/csv.md)")
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(map(repr, missing))} of a table of runs: model, score and images_seen (or steps and "
                        "global_batch) are needed; and it is not a table of published results either (those have source, model, gflops, fid, "
                        f"verified, ...). It has {words(columns)}")


def words(columns) -> str:
    """Column names, shortened for printing: a file that is not a table may have thousands of arbitrary bytes."""
    names = [name if name.isprintable() else repr(name) for name in map(str, columns)]
    text = ", ".join(names) or "no column"
    return text if len(text) <= 1000 else text[:1000] + " ..."


def complete(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with every column that studies and figures read.

    Args:
        rows: numbers as numbers, unknown values NaN or "".

    Raises:
        UserError: two rows are the same evaluation of the same run, so seeds or runs cannot be distinguished.
    """
    rows = rows.copy()
    _progress(path, rows)
    for name, default in WORDS.items():
        rows[name] = rows[name].where(rows[name] != "", default) if name in rows else default
    if "method" not in rows:
        rows["method"] = rows["variant"]
    for name in UNKNOWN:
        if name not in rows:
            rows[name] = np.nan
    _names(rows)
    _costs(rows)
    _identity(path, rows)
    if "trunk" not in rows:                                                    # no branches
        rows["trunk"], rows["branch_images"] = rows["run_id"], 0
    if "passport" not in rows:
        stated = {text: json.loads(text) for text in rows["passport_fields"].unique()}
        rows["passport"] = [digest(stated[text], without=(SEED,)) if stated[text] else NOT_STATED for text in rows["passport_fields"]]
    if "final" not in rows:
        rows["final"] = rows["images_seen"] == rows.groupby("run_id")["images_seen"].transform("max")
    if "sample_seeds" not in rows and "sample_seed" not in rows:
        _refuse_twice(path, rows, ["run_id", "images_seen", "passport"])
        rows["sample_seed"] = 0
    return rows


def _progress(path: Path, rows: pd.DataFrame) -> None:
    if "images_seen" not in rows:
        names = next(names for names in PROGRESS if set(names) <= set(rows))
        a, b = (rows[name] for name in names)
        rows["images_seen"] = a * b if names[0] == "steps" else a / b
        missing = np.flatnonzero(rows["images_seen"].isna())
        if missing.size:
            raise UserError(f"{path}, line {missing[0] + 2}: {' or '.join(names)} is empty, so the images seen are unknown")
    rows["images_seen"] = rows["images_seen"].round().astype("int64")


def _names(rows: pd.DataFrame) -> None:
    """Size and patch size from names such as DiT-S/2; any other name is its own size, with patch size 0 for unknown."""
    found = rows["model"].str.extract(NAME)
    size, patch = found["size"].fillna(rows["model"]), pd.to_numeric(found["patch"]).fillna(0).astype("int64")
    rows["size"] = rows["size"].where(rows["size"] != "", size) if "size" in rows else size
    rows["patch_size"] = rows["patch_size"].fillna(patch).astype("int64") if "patch_size" in rows else patch


def _costs(rows: pd.DataFrame) -> None:
    """Derives training FLOPs and FLOPs per image from each other, or for plain training from MACs; and for it tokens per parameter."""
    plain = FLOPS_PER_MAC * FORWARDS_PER_TRAINED_STEP * rows["macs"].where(rows["variant"] == BASELINE)
    own = rows["train_flops"] / rows["images_seen"]
    rows["train_flops_per_image"] = rows["train_flops_per_image"].astype(float).fillna(own).fillna(plain)
    rows["train_flops"] = rows["train_flops"].astype(float).fillna(rows["train_flops_per_image"] * rows["images_seen"])
    ratio = tokens_per_parameter(rows["images_seen"], rows["tokens"], rows["parameters"]).where(rows["variant"] == BASELINE)
    rows["tokens_per_parameter"] = rows["tokens_per_parameter"].astype(float).fillna(ratio.astype(float))


def _identity(path: Path, rows: pd.DataFrame) -> None:
    """Assigns rows to runs, runs to recipes, and a number to each run of a recipe."""
    if "recipe" not in rows:
        varied = [name for name in SETTINGS if name in rows and rows[name].nunique(dropna=False) > 1]
        parts = [rows["model"], rows["variant"], *(f"{name}=" + rows[name].astype(str) for name in varied)]
        rows["recipe"] = [" ".join(own) for own in zip(*parts)]
    if "run_id" not in rows:
        rows["seed"] = rows["seed"].astype("int64") if "seed" in rows else 0
        rows["run_id"] = rows["recipe"] + " s" + rows["seed"].astype(str)
        if "sample_seed" not in rows and "sample_seeds" not in rows:
            _refuse_twice(path, rows, ["run_id", "images_seen", *(["passport_fields"] if "passport" not in rows else ["passport"])])
    elif "seed" not in rows:
        firsts = rows.drop_duplicates("run_id")
        numbers = dict(zip(firsts["run_id"], firsts.groupby("recipe").cumcount()))
        rows["seed"] = rows["run_id"].map(numbers)


def _refuse_twice(path: Path, rows: pd.DataFrame, one: list[str]) -> None:
    again = np.flatnonzero(rows.duplicated(one))
    if again.size:
        row = rows.iloc[again[0]]
        first = np.flatnonzero((rows[one] == row[one]).all(axis=1))[0]
        raise UserError(f"{path}, lines {first + 2} and {again[0] + 2}: two scores of '{row['run_id']}' at {row['images_seen']:,} images; a column "
                        "seed or run_id distinguishes runs, a column sample_seed repeated scorings")
