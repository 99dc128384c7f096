"""A study for notebooks: its table, and frontiers, multipliers and times to quality computed from it.

    study = Study.load("runs/digits-demo")                    # or Study.from_csv("runs.csv", columns={"fid": "score"})
    print(study.multiplier("masked", over="baseline", cost="accelerator_hours").sentence)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.dotted import dotted_keys
from ditscale.errors import UserError, did_you_mean
from ditscale.evaluation.metrics.table import LOSS
from ditscale.objectives import BASELINE
from ditscale.rundir import RunDir
from ditscale.scaling.break_even import BreakEven, break_even
from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import INCONCLUSIVE, MIN_SEEDS
from ditscale.scaling.frontier import Frontier, frontier
from ditscale.scaling.multiplier import Multiplier, multiplier
from ditscale.scaling.noise import Noise, pooled_noise
from ditscale.scaling.quality import TimeToQuality, time_to_quality
from ditscale.scaling.speedup import Speedup, effective_speedup
from ditscale.studies.table import cells, csv_defaults, csv_table, ledger
from ditscale.studies.table.comparable import main_rows, require_one, trunks
from ditscale.studies.table.sampling_cost import require_flops_per_image, with_image_costs

TIMED, EVEN_SPEEDS = ("accelerator_hours", "money"), 1.3                        # costs that depend on the machine's speed
COSTS = {"train_flops": "training FLOPs", "accelerator_hours": "training accelerator-hours", "money": "money", "images_seen": "images seen"}
ONE_OF_EACH = ("metric", "passport", "formulation")


@dataclass(frozen=True, eq=False)
class Study:
    """A study's rows, or some of them. ``Study(path, rows)`` makes one from any rows of ``table()``.

    Costs are ``train_flops``, ``accelerator_hours``, ``images_seen``, or ``money`` with ``price`` per
    accelerator-hour. All exclude the cost of evaluations. If a study has scores and validation losses, scores are
    compared; ``where(metric="loss")`` is the study with only its losses.
    """

    path: Path
    rows: pd.DataFrame = field(repr=False)

    @classmethod
    def load(cls, path) -> "Study":
        """Reads the current state of a study's folder.

        Raises:
            UserError: the folder does not exist or has no run.
        """
        return cls(Path(path), with_image_costs(ledger.collect(path)))

    @classmethod
    def from_csv(cls, path, columns: dict[str, str] | None = None, **constants) -> "Study":
        """A study from a CSV with one row per evaluation: from `ditscale collect`, or a plain one (docs/csv.md).

        Args:
            columns: renames the CSV's columns, ``{"fid": "score", "flops": "train_flops"}``.
            constants: missing columns with one value, ``metric="fid"``.

        Raises:
            UserError: ``model``, ``score`` or ``images_seen`` is missing, a field is not a number, or rows cannot be distinguished.
        """
        return cls(Path(path), with_image_costs(csv_table.read(Path(path), columns, constants)))

    def table(self) -> pd.DataFrame:
        """A copy of the ledger's rows, one per evaluation."""
        return self.rows.copy()

    def where(self, **values) -> "Study":
        """The study's rows with these values: ``where(metric="fid", model=["DiT-S/2", "DiT-B/2"])``.

        Raises:
            UserError: the column does not exist, or no row is left.
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
        """Seed noise of the score, pooled over all cells of the study (a recipe at a number of images)."""
        rows = self._scored()
        return pooled_noise(rows["score"], cells.names(rows), trunks(rows))

    def frontier(self, cost: str = "train_flops", *, price: float | None = None, lower_is_better: bool = True,
                 images_to_make: float | None = None) -> Frontier:
        """The frontier over every model, variant and checkpoint of the study; seeds of a recipe are one cell.

        Args:
            images_to_make: add the FLOPs of making this many images, as each score's were made; the images of evaluations are such images.

        Raises:
            UserError: the scores are not comparable, or a cost is unknown.
        """
        rows = self._scored()
        costs, unit = _cost(rows, cost, price), COSTS[cost]
        if images_to_make is not None:
            costs, unit = costs + _making(rows, cost, images_to_make), f"FLOPs of training and of making {images_to_make:,.0f} images"
        return frontier(costs, rows["score"], cells.names(rows), trunks(rows), cost_unit=unit, score_unit=rows["metric"].iloc[0],
                        lower_is_better=lower_is_better)

    def break_evens(self, *, lower_is_better: bool = True) -> list[BreakEven]:
        """From how many images on a smaller model is cheaper than the next larger one, for models on the frontier of training FLOPs, at the best
        score that every run of both has reached. A model of several variants or recipes is compared in each; with branches a curve is a trunk's.

        Raises:
            UserError: the scores are not comparable, or what training or an image costs is unknown.
        """
        def side(name: str, own: pd.DataFrame) -> Runs:
            return replace(self._runs(own, "train_flops", None, lower_is_better), name=name)

        rows = _ends_by_trunk(self._scored())
        _cost(rows, "train_flops", None)
        return [break_even(side(*small), side(*large), (image, larger_image), score_unit=rows["metric"].iloc[0])
                for (*small, image), (*large, larger_image) in cells.pairs_of_sizes(rows, lower_is_better)]

    def multiplier(self, variant: str, *, over: str = BASELINE, cost: str = "train_flops", targets: Sequence[float] | None = None,
                   price: float | None = None, pool_noise: bool = False, lower_is_better: bool = True) -> Multiplier:
        """How many times cheaper ``variant`` reaches a score than ``over``, at each target with the cheapest of its models.

        Only models that both variants have are used; if some have three seeds of both and others do not, only those with three, as
        ``left_out`` says: a target reached with one seed would leave the whole verdict open. Hours and money are INCONCLUSIVE where seeds of
        one recipe were trained at speeds more than ``EVEN_SPEEDS`` apart: they measure who else used the machine. ``pool_noise`` uses the noise of the whole
        study instead of that of the compared runs. In a study with branches a curve is a trunk's: through the ends of its lengths.

        Raises:
            UserError: an unknown variant, no model in common, scores that are not comparable, or an unknown cost.
        """
        if targets is not None and not all(target > 0 for target in targets):
            raise UserError(f"targets are {list(targets)}; give scores above 0")
        rows = _ends_by_trunk(self._scored())
        sides = [_only(rows, "variant", name) for name in (variant, over)]
        shared = set(sides[0]["model"]) & set(sides[1]["model"])
        if not shared:
            raise UserError(f"no model was trained both as {variant} and as {over}; a multiplier compares equal models")
        repeated = {model for model in shared if min(side.loc[side["model"] == model, "seed"].nunique() for side in sides) >= MIN_SEEDS}
        used = sorted(repeated or shared)
        runs = [self._runs(side[side["model"].isin(used)], cost, price, lower_is_better) for side in sides]
        found = multiplier(runs[0], runs[1], targets, noise=self.noise() if pool_noise else None, cost_unit=COSTS[cost],
                           score_unit=rows["metric"].iloc[0])
        if cost in TIMED and found.status.ok:
            found = _of_even_speeds(found, pd.concat([side[side["model"].isin(used)] for side in sides]))
        left_out = f"Of {', '.join(used)}: other models have fewer than {MIN_SEEDS} seeds" if len(used) < len(shared) else ""
        return replace(found, left_out=left_out)

    def speedup(self, variant: str, *, floor: float, exponent: float, over: str = BASELINE, cost: str = "train_flops",
                at: float | None = None, price: float | None = None) -> dict[str, Speedup]:
        """How many times its compute ``over`` would need to reach the validation loss of ``variant`` at equal cost, by model.

        Args:
            floor, exponent: E and alpha of the loss of ``over`` in this cost, E + A C^-alpha, known from its law.
            at: the cost at which they are compared; default the highest that every run of a model has reached.

        Raises:
            UserError: no validation loss, an unknown variant or cost, no model in common, losses that are not comparable, a floor that is
                not below every loss, or some run has not reached the cost.
        """
        rows = self.rows[self.rows["metric"] == LOSS]
        if rows.empty:
            raise UserError(f"study '{self.path}' has no validation loss, and the effective speed-up is of losses; `ditscale validate` computes it")
        rows = Study(self.path, rows.reset_index(drop=True))._scored()
        sides = [_only(rows, "variant", name) for name in (variant, over)]
        models = [model for model in sides[0]["model"].unique() if model in set(sides[1]["model"])]
        if not models:
            raise UserError(f"no model was trained both as {variant} and as {over}; a speed-up compares equal models")
        runs = {model: [self._runs(side[side["model"] == model], cost, price, True) for side in sides] for model in models}
        return {model: effective_speedup(*pair, floor=floor, exponent=exponent, cost=at) for model, pair in runs.items()}

    def time_to_quality(self, target: float, *, model: str, variant: str = BASELINE, cost: str = "accelerator_hours",
                        price: float | None = None, lower_is_better: bool = True) -> TimeToQuality:
        """The cost at which the runs of one model and variant first reach a score.

        Raises:
            UserError: an unknown model or variant, scores that are not comparable, or an unknown cost.
        """
        if not target > 0:
            raise UserError(f"target is {target!r}; give a score above 0")
        rows = _only(_only(self._scored(), "model", model), "variant", variant)
        return time_to_quality(self._runs(rows, cost, price, lower_is_better), target, cost_unit=COSTS[cost])

    def _scored(self) -> pd.DataFrame:
        """The rows, one per evaluated checkpoint; several sample seeds are averaged."""
        if self.rows.empty:
            raise UserError(f"study '{self.path}' has no evaluation yet")
        rows = main_rows(self.rows)
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
        """Raises UserError if two recipes have one name, as they are not repetitions; the message says how they differ."""
        two = rows.drop_duplicates("recipe").iloc[:2]
        values = ", ".join(f"{key} {one} and {other}" for key, one, other in _differences(self.path, two)) or "their columns do not show the difference"
        raise UserError(f"{model} {rows['variant'].iloc[0]} was trained by {rows['recipe'].nunique()} recipes ({values}), which are not "
                        f"repetitions; keep one of {', '.join(map(repr, rows['recipe'].unique()))} with where(recipe=[...])")


def _ends_by_trunk(rows: pd.DataFrame) -> pd.DataFrame:
    """With branches: the end of each finished run, as a point of its trunk, whose recipe but for the length it has. Other rows of theirs are of an
    unfinished schedule. Without branches the rows as they are."""
    if "branch_images" not in rows or not (rows["branch_images"] > 0).any():
        return rows
    of_trunk = rows.drop_duplicates("run_id").set_index("run_id")["recipe"]
    ends = rows[rows["final"].astype(bool)]
    return ends.assign(recipe=ends["trunk"].map(of_trunk).fillna(ends["recipe"]), run_id=ends["trunk"]).reset_index(drop=True)


def _of_even_speeds(found: Multiplier, rows: pd.DataFrame) -> Multiplier:
    """``found``, without a verdict if seeds of one recipe and model had speeds that are too far apart."""
    if "images_per_second" not in rows:
        return found
    speeds = rows.dropna(subset="images_per_second").drop_duplicates("run_id").groupby(["model", "variant", "recipe"])["images_per_second"]
    apart = (speeds.max() / speeds.min()).sort_values()
    if apart.empty or not apart.iloc[-1] > EVEN_SPEEDS:
        return found
    model, variant, _ = apart.index[-1]
    reason = f"seeds of {model} {variant} were trained at speeds {apart.iloc[-1]:.2g} times apart, so hours measure what else the machine did"

    def open_verdict(one: Multiplier) -> Multiplier:
        return replace(one, course=None, without=one.without and open_verdict(one.without), overall=replace(one.overall, verdict=INCONCLUSIVE, reason=reason))

    return open_verdict(found)


def _cost(rows: pd.DataFrame, cost: str, price: float | None) -> np.ndarray:
    if cost not in COSTS:
        raise UserError(f"no cost '{cost}'{did_you_mean(cost, COSTS) or '.'} Costs: {', '.join(COSTS)}")
    if cost == "money" and not (price and price > 0):
        raise UserError(f"cost='money' with price={price!r}; give price=, the price of one accelerator-hour, above 0")
    column = "accelerator_hours" if cost == "money" else cost
    values = rows[column].to_numpy(float)
    if not np.isfinite(values).all():
        run = rows["run_id"][~np.isfinite(values)].iloc[0]
        raise UserError(f"{column} is not known for run '{run}': its metrics.jsonl, or the CSV, does not have it for each evaluation")
    return values * price if cost == "money" else values


def _making(rows: pd.DataFrame, cost: str, images: float) -> np.ndarray:
    """FLOPs of making the images with each row's model, as its score's images were made."""
    if not 0 <= images < np.inf:
        raise UserError(f"images_to_make is {images!r}; give a number of images, 0 or more")
    if cost != "train_flops":
        raise UserError(f"images_to_make adds FLOPs, and the cost is {COSTS[cost]}: only cost train_flops can be added to")
    return images * require_flops_per_image(rows).to_numpy(float)


def _differences(path: Path, two: pd.DataFrame) -> list[tuple]:
    """How two runs differ, apart from seed, resources and scoring: by their configs, or for a CSV by its settings."""
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
