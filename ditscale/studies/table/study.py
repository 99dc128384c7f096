"""A study for notebooks: its table, and frontiers, multipliers and times to a quality over its columns.

    study = Study.load("runs/digits-demo")                    # or Study.from_csv("runs.csv", columns={"fid": "score"})
    print(study.multiplier("masked", over="baseline", cost="accelerator_hours").sentence)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.config import dotted_keys
from ditscale.errors import UserError, did_you_mean
from ditscale.objectives import BASELINE
from ditscale.rundir import RunDir
from ditscale.scaling.curves import Runs
from ditscale.scaling.frontier import Frontier, frontier
from ditscale.scaling.multiplier import Multiplier, multiplier
from ditscale.scaling.noise import Noise, pooled_noise
from ditscale.scaling.quality import TimeToQuality, time_to_quality
from ditscale.studies.table import csv_defaults, csv_table, ledger
from ditscale.studies.table.comparable import require_one, scores_alone

COSTS = {"train_flops": "training FLOPs", "accelerator_hours": "training accelerator-hours", "money": "money", "images_seen": "images seen"}
ONE_OF_EACH = ("metric", "passport", "formulation")


@dataclass(frozen=True, eq=False)
class Study:
    """A study's rows, or some of them. ``Study(path, rows)`` makes one of any rows of ``table()``.

    Costs are ``train_flops``, ``accelerator_hours``, ``images_seen``, or ``money`` with ``price`` for one accelerator and
    one hour. All are of training: what evaluations cost is not in them. Of a study with scores and validation losses, scores are
    compared; ``where(metric="loss")`` is the study of its losses.
    """

    path: Path
    rows: pd.DataFrame = field(repr=False)

    @classmethod
    def load(cls, path) -> "Study":
        """Read a study's folder, as it stands now.

        Raises:
            UserError: there is no such folder, or it holds no run.
        """
        return cls(Path(path), ledger.collect(path))

    @classmethod
    def from_csv(cls, path, columns: dict[str, str] | None = None, **constants) -> "Study":
        """A study from a CSV with a row an evaluation: one of `ditscale collect`, or a plain one (docs/csv.md).

        Args:
            columns: names that the CSV calls otherwise, ``{"fid": "score", "flops": "train_flops"}``.
            constants: columns of one value that it lacks, ``metric="fid"``.

        Raises:
            UserError: ``model``, ``score`` or ``images_seen`` is missing, a field is not a number, or rows are not told apart.
        """
        return cls(Path(path), csv_table.read(Path(path), columns, constants))

    def table(self) -> pd.DataFrame:
        """The ledger's rows, one an evaluation: a copy, to be changed at will."""
        return self.rows.copy()

    def where(self, **values) -> "Study":
        """The study's rows with these values: ``where(metric="fid", model=["DiT-S/2", "DiT-B/2"])``.

        Raises:
            UserError: no such column, or no row left.
        """
        rows = self.rows
        for column, wanted in values.items():
            if column not in rows:
                raise UserError(f"where({column}=...): no such column{did_you_mean(column, rows.columns)}")
            kept = rows[rows[column].isin(wanted if isinstance(wanted, (list, tuple, set)) else [wanted])]
            if kept.empty:
                there = ", ".join(map(str, rows[column].unique()))
                raise UserError(f"where({column}={wanted!r}) keeps no row; {column} is one of: {there}")
            rows = kept
        return Study(self.path, rows.reset_index(drop=True))

    def noise(self) -> Noise:
        """Seed noise of the score, pooled over all cells of the study: recipes at a number of images."""
        rows = self._scored()
        return pooled_noise(rows["score"], rows["recipe"] + " at " + rows["images_seen"].map("{:,} images".format), rows["run_id"])

    def frontier(self, cost: str = "train_flops", *, price: float | None = None, lower_is_better: bool = True) -> Frontier:
        """The frontier over every model, variant and checkpoint of the study; seeds of a recipe are one cell.

        Raises:
            UserError: the scores are not comparable, or the cost is not known.
        """
        rows = self._scored()
        names = (rows["model"].str.removeprefix("DiT-") + " " + rows["variant"] + " " + rows["images_seen"].map("{:,}".format))
        several = rows.groupby(names)["recipe"].transform("nunique") > 1
        names = names.where(~several, names + " " + rows["recipe"])
        return frontier(_cost(rows, cost, price), rows["score"], names, rows["run_id"], cost_unit=COSTS[cost],
                        score_unit=rows["metric"].iloc[0], lower_is_better=lower_is_better)

    def multiplier(self, variant: str, *, over: str = BASELINE, cost: str = "train_flops", targets: Sequence[float] | None = None,
                   price: float | None = None, pool_noise: bool = False, lower_is_better: bool = True) -> Multiplier:
        """How many times cheaper ``variant`` reaches a score than ``over``, at each target by the cheapest of its models.

        Only models that both variants have are taken. ``pool_noise`` takes the noise of the whole study in place of that of the
        runs compared.

        Raises:
            UserError: no such variant, no model in common, scores that are not comparable, or the cost is not known.
        """
        if targets is not None and not all(target > 0 for target in targets):
            raise UserError(f"targets are {list(targets)}; give scores above 0")
        rows = self._scored()
        sides = [_only(rows, "variant", name) for name in (variant, over)]
        shared = set(sides[0]["model"]) & set(sides[1]["model"])
        if not shared:
            raise UserError(f"no model was trained both as {variant} and as {over}; a multiplier compares equal models")
        runs = [self._runs(side[side["model"].isin(shared)], cost, price, lower_is_better) for side in sides]
        return multiplier(runs[0], runs[1], targets, noise=self.noise() if pool_noise else None, cost_unit=COSTS[cost],
                          score_unit=rows["metric"].iloc[0])

    def time_to_quality(self, target: float, *, model: str, variant: str = BASELINE, cost: str = "accelerator_hours",
                        price: float | None = None, lower_is_better: bool = True) -> TimeToQuality:
        """What the runs of one model and variant cost when they first reach a score.

        Raises:
            UserError: no such model or variant, scores that are not comparable, or the cost is not known.
        """
        if not target > 0:
            raise UserError(f"target is {target!r}; give a score above 0")
        rows = _only(_only(self._scored(), "model", model), "variant", variant)
        return time_to_quality(self._runs(rows, cost, price, lower_is_better), target, cost_unit=COSTS[cost])

    def _scored(self) -> pd.DataFrame:
        """The rows, one an evaluated checkpoint: sets of samples of several seeds count as their mean."""
        if self.rows.empty:
            raise UserError(f"study '{self.path}' holds no evaluation yet")
        rows = scores_alone(self.rows)
        require_one(rows, ONE_OF_EACH, lambda column, value: f"where({column}={value!r})")
        rows = rows.astype({"score": float})
        rows["score"] = rows.groupby(["run_id", "images_seen"])["score"].transform("mean")
        return rows.drop_duplicates(["run_id", "images_seen"], ignore_index=True)

    def _runs(self, rows: pd.DataFrame, cost: str, price: float | None, lower_is_better: bool) -> Runs:
        for model, own in rows.groupby("model"):
            if own["recipe"].nunique() > 1:
                self._refuse_recipes(model, own)
        return Runs(_cost(rows, cost, price), rows["score"], rows["run_id"], rows["model"], rows["variant"].iloc[0], lower_is_better,
                    rows["images_seen"])

    def _refuse_recipes(self, model: str, rows: pd.DataFrame) -> None:
        """Two recipes under one name are not repetitions: say in what they differ."""
        two = rows.drop_duplicates("recipe").iloc[:2]
        values = ", ".join(f"{key} {one} and {other}" for key, one, other in _differences(self.path, two)) or "not told apart by their columns"
        raise UserError(f"{model} {rows['variant'].iloc[0]} was trained by {rows['recipe'].nunique()} recipes ({values}): these are no "
                        f"repetitions; keep one with where(recipe=[...]), {', '.join(map(repr, rows['recipe'].unique()))} are there")


def _cost(rows: pd.DataFrame, cost: str, price: float | None) -> np.ndarray:
    if cost not in COSTS:
        raise UserError(f"no cost '{cost}'{did_you_mean(cost, COSTS) or '.'} Costs: {', '.join(COSTS)}")
    if cost == "money" and not (price and price > 0):
        raise UserError(f"cost='money' with price={price!r}; give price=, the money for one accelerator and one hour, above 0")
    column = "accelerator_hours" if cost == "money" else cost
    values = rows[column].to_numpy(float)
    if not np.isfinite(values).all():
        run = rows["run_id"][~np.isfinite(values)].iloc[0]
        raise UserError(f"{column} is not known for run '{run}': its metrics.jsonl, or the CSV, does not say it at each evaluation")
    return values * price if cost == "money" else values


def _differences(path: Path, two: pd.DataFrame) -> list[tuple]:
    """In what two runs differ, beside seed, resources and scoring: by their configs, or of a CSV by its settings."""
    runs = [RunDir(path / run_id) for run_id in two["run_id"]] if path.is_dir() else []
    if runs and all(run.record.is_file() for run in runs):
        one, other = (dotted_keys(run.read_record()["config"]) for run in runs)
        keys = [key for key in sorted({*one, *other}) if key != "seed" and not key.startswith(("resources.", "evaluation."))]
    else:
        one, other = (row.to_dict() for _, row in two.iterrows())
        keys = [key for key in csv_defaults.SETTINGS if key in one]
    return [(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]


def _only(rows: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    kept = rows[rows[column] == value]
    if kept.empty:
        there = rows[column].unique()
        raise UserError(f"no {column} '{value}'{did_you_mean(value, there) or '.'} There are: {', '.join(there)}")
    return kept
