"""A prediction from a study's folder: selects its rungs and its target, and makes the record.

Rungs are the runs of one variant with models of fewer forward FLOPs than the target, and of one formulation, data set, resolution, block
design and passport. The size in a law is forward FLOPs per image and the data are images: the patch size changes the former but not the
number of parameters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType

import pandas as pd

import ditscale
from ditscale.config import RunConfig, resolve
from ditscale.cost.runs import plain_tokens_per_parameter, run_card, training_flops
from ditscale.errors import UserError, count, did_you_mean
from ditscale.evaluation.metrics.table import LOSS
from ditscale.models.sizes import parse_model_name
from ditscale.objectives import BASELINE
from ditscale.rundir import QUEUED, RunDir
from ditscale.scaling.cards import versions
from ditscale.scaling.forecast import LEAST_SIZES, Forecast, Rungs, forecast
from ditscale.scaling.predict import ScorePrediction, predict_score
from ditscale.studies.spec.lengths import derive
from ditscale.studies.table import ledger
from ditscale.studies.table.comparable import require_one, trunks
from ditscale.studies.table.conditions import where

ALIKE = ("formulation", "data", "resolution", "block", "passport")
SEED = "sample_seed"                                                           # of the draws of a validation loss: losses with other draws are not comparable

WIDEST = 1000.0                                                                # largest useful ratio of an interval's ends


@dataclass(frozen=True)
class Target:
    """The predicted run. ``forward_flops`` is per image."""

    model: str
    variant: str
    images: int
    train_flops: int
    forward_flops: float
    parameters: int
    tokens_per_parameter: float


@dataclass(frozen=True, eq=False)
class Made:
    """A prediction and the line to record; ``loss`` or ``score`` is None if the study has none."""

    target: Target
    loss: Forecast | None
    score: ScorePrediction | None
    metric: str | None
    record: dict


def predict(study: Path, model: str, *, images: int | None = None, flops: float | None = None, metric: str | None = None,
            variant: str = BASELINE, rungs: tuple[str, ...] = (), pinned: dict[str, float] | None = None, conditions: tuple[str, ...] = (),
            configs: Mapping[str, RunConfig] = MappingProxyType({}), run_folder: Path | None = None) -> Made:
    """Predicts a run of ``model`` from the study's smaller runs.

    Args:
        images, flops: how long the target trains; default the length that all rungs share.
        metric: of the score, or "loss" for only the loss; default the study's only metric.
        rungs: models to predict from; default all that are smaller than the target.
        pinned: coefficients of the loss's law, see ``forecast``.
        conditions: ``column=value`` or ``passport field=value``: rows to predict from; others are left out, those without the field are not.
        configs: by run id, for a study that has only its table.
        run_folder: where the target may have started, for such a study.

    Raises:
        UserError: an unknown model, variant or metric; rows that are not comparable; too few sizes; no way with an interval, or an interval
            too wide to be useful.
    """
    name = str(parse_model_name(model))
    if (landed := ledger.landed_table(study)) and not configs:
        raise UserError(f"{landed} has scores and no configs: give the study file, `ditscale predict SPEC --landed {study} --target {name}`; --check compares "
                        "predictions that were made")
    table = ledger.collect(study)
    rows = where(_of_variant(table, variant), conditions, unstated=True)
    smaller = _rungs(rows, name, rungs, study)
    base = _config(study, smaller.sort_values("macs")["run_id"].iloc[-1], configs)
    target = _target(base, name, _length(smaller, images, flops), flops, variant)
    is_smaller = smaller["macs"] < target.forward_flops / 2
    if rungs and not is_smaller.all():
        raise UserError(f"rung {smaller[~is_smaller]['model'].iloc[0]} is not smaller than {name} in forward FLOPs; leave it out")
    smaller = smaller[is_smaller]
    if smaller["model"].nunique() < LEAST_SIZES:
        there = ", ".join(smaller["model"].unique()) or "none"
        raise UserError(f"{study} has {count(smaller['model'].nunique(), 'model')} smaller than {name} ({there}); {LEAST_SIZES} are needed to predict it")
    metric = _metric(smaller, metric)
    loss_rows, score_rows = _comparable(smaller, LOSS), _comparable(smaller, metric) if metric != LOSS else None
    losses = _points(loss_rows) if loss_rows is not None else None
    unit = target.images / target.tokens_per_parameter
    loss = forecast(losses, target.forward_flops, target.images, pinned=pinned, unit=unit) if losses is not None else None
    score = predict_score(_points(score_rows), target.forward_flops, target.images, losses, loss, unit=unit) if score_rows is not None else None
    for what, found in (("loss", loss), (metric, score)):
        if found and not found.interval.high < WIDEST * found.interval.low:
            raise UserError(f"the 95 % interval of the {what} of {name} would be {found.interval.low:.3g} to {found.interval.high:.3g}: a "
                            "prediction this wide is not recorded; train longer or larger rungs, or predict a shorter run")
    used = [part for part in (loss_rows, score_rows) if part is not None]
    record = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "study": study.resolve().name, "target": target.__dict__,
        "after": any(has_started(one, name, variant) for one in (study, run_folder) if one), "rungs": _used(pd.concat(used)), "pinned": pinned or {},
        "predicted": {"loss": {"metric": LOSS, "passport": loss_rows["passport"].iloc[0], **_draws(loss_rows), **loss.card()} if loss else None,
                      "score": {"metric": metric, "passport": score_rows["passport"].iloc[0], **score.card()} if score else None},
        "versions": {"ditscale": ditscale.__version__, **versions()},
    }
    return Made(target, loss, score, metric if score else None, record)


def has_started(study: Path, model: str, variant: str) -> bool:
    """Whether the study has a trained run of this model and variant, of any length: its result is then known."""
    if ledger.landed_table(study):
        table = ledger.collect(study)
        return bool(((table["model"] == model) & (table["variant"] == variant)).any())
    if not any(study.glob("*/run.json")):
        return False
    facts = ledger.collect_runs(study)
    own = [RunDir(study / run_id) for run_id in facts[(facts["model"] == model) & (facts["variant"] == variant)]["run_id"]]
    return any(run.status()["state"] != QUEUED or (run.metrics.exists() and run.metrics.stat().st_size > 0) for run in own)


def _config(study: Path, run_id: str, configs: Mapping[str, RunConfig]) -> RunConfig:
    """Of a run, from the study file if that is given, else from its directory. Raises UserError if the study file has no such run."""
    if configs and run_id not in configs:
        raise UserError(f"{study} has a run {run_id} that is not in the study file: its configs have changed, or it is another study's")
    return configs[run_id] if configs else resolve(RunDir(study / run_id).read_record()["config"], str(study))


def _of_variant(table: pd.DataFrame, variant: str) -> pd.DataFrame:
    rows = table[table["variant"] == variant]
    if rows.empty:
        there = table["variant"].unique()
        raise UserError(f"no evaluated run of variant '{variant}'{did_you_mean(variant, there) or '.'} There are: {', '.join(there) or 'none'}")
    return rows


def _rungs(rows: pd.DataFrame, target: str, rungs: tuple[str, ...], study: Path) -> pd.DataFrame:
    others = rows[rows["model"] != target]
    for rung in rungs:
        if str(parse_model_name(rung)) not in set(others["model"]):
            raise UserError(f"rung {rung} has no evaluated run in {study}; there are {', '.join(others['model'].unique()) or 'none'}")
    if rungs:
        others = others[others["model"].isin([str(parse_model_name(rung)) for rung in rungs])]
    if others.empty:
        raise UserError(f"{study} has no evaluated run of a model other than {target}: there is nothing to predict it from")
    return others


def _length(rows: pd.DataFrame, images: int | None, flops: float | None) -> int | None:
    """The target's images; None if ``flops`` decides."""
    if images is not None and flops is not None:
        raise UserError("give --images or --flops, not both")
    if images is not None or flops is not None:
        return images
    ends = rows.groupby("run_id")["images_seen"].max()
    if ends.nunique() > 1:
        raise UserError(f"the rungs train for {ends.min():,} to {ends.max():,} images: choose the target's length with --images or --flops")
    return int(ends.iloc[0])


def _target(base: RunConfig, model: str, images: int | None, flops: float | None, variant: str) -> Target:
    values = base.model_dump(mode="json")
    train = {name: value for name, value in values["train"].items() if name != "images"}
    if images is not None and images % base.train.global_batch:
        images += base.train.global_batch - images % base.train.global_batch   # runs end at whole batches
    length = {"flops": flops} if images is None else {"images": images}
    values |= {"model": {**values["model"], "name": model}, "train": {**train, **length, "checkpoint_every_images": base.train.global_batch},
               "evaluation": None, "parent": None}
    config = resolve(derive(values, "--flops"), f"the target {model}")
    card = run_card(config)
    return Target(model, variant, config.train.images, training_flops(config, config.train.images), float(2 * card.macs), card.parameters,
                  plain_tokens_per_parameter(config, config.train.images))


def _metric(rows: pd.DataFrame, metric: str | None) -> str:
    """The metric of the score; "loss" if there is no other."""
    there = list(rows["metric"].unique())
    if metric is not None:
        if metric not in there:
            raise UserError(f"--metric {metric}: no rung has it{did_you_mean(metric, there) or '.'} There are: {', '.join(there)}")
        return metric
    scores = [name for name in there if name != LOSS]
    if len(scores) > 1:
        raise UserError(f"the rungs have {', '.join(scores)}: choose one with --metric")
    return scores[0] if scores else LOSS


def _comparable(rows: pd.DataFrame, metric: str) -> pd.DataFrame | None:
    """A metric's rows, one per checkpoint, with several sample seeds averaged; None if there are none."""
    own = rows[rows["metric"] == metric]
    if own.empty:
        return None
    require_one(own, (*ALIKE, SEED) if metric == LOSS else ALIKE, lambda column, value: f"--where FIELD=VALUE, for example --where {column}={value}")
    own = own.assign(score=own["score"].astype(float))
    own["score"] = own.groupby(["run_id", "images_seen"])["score"].transform("mean")
    own = own.drop_duplicates(["run_id", "images_seen"], ignore_index=True)
    bad = own[~own["score"].map(lambda score: math.isfinite(score) and score > 0)]
    if len(bad):
        raise UserError(f"run '{bad['run_id'].iloc[0]}' has a {metric} of {bad['score'].iloc[0]:g} at {bad['images_seen'].iloc[0]:,} images: "
                        "a diverged run cannot be a rung; leave its model out with --rung")
    return own


def _points(rows: pd.DataFrame) -> Rungs:
    return Rungs((2.0 * rows["macs"]).to_numpy(float), rows["images_seen"].to_numpy(float), rows["score"].to_numpy(float), trunks(rows).to_numpy(str),
                 (rows["images_seen"] / rows["tokens_per_parameter"]).to_numpy(float))


def _draws(rows: pd.DataFrame) -> dict:
    """The seed of a validation loss's draws, if its passport has it."""
    seed = rows[SEED].iloc[0]
    return {} if pd.isna(seed) else {"seed": int(seed)}


def _used(rows: pd.DataFrame) -> list[dict]:
    last = rows.sort_values("images_seen").drop_duplicates("run_id", keep="last").sort_values(["macs", "run_id"])
    return [{"run_id": row.run_id, "model": row.model, "seed": int(row.seed), "images_seen": int(row.images_seen)} for row in last.itertuples()]
