"""Forecast and actual cost of each run: planned FLOPs, forecast hours, measured hours.

The forecast is the one that `launch` recorded. For runs of earlier versions it comes from a probe if ``ditscale plan SPEC --probe`` measured the run's
shape on this kind of machine, else from the plan's assumptions for known accelerators; of a CPU there is then none, as its peak is always measured.
All hours are of training, up to the images that the run has seen. A table without run directories has what finished runs took.
"""

import math
from dataclasses import dataclass

import pandas as pd

from ditscale.config import RunConfig, resolve
from ditscale.cost.communication import Sharding
from ditscale.cost.hardware import Machine, dense_bf16_flops, gpu_links
from ditscale.cost.runs import training_flops
from ditscale.cost.throughput import training_seconds
from ditscale.errors import UserError
from ditscale.figures.kit import style
from ditscale.report import page
from ditscale.report.sources import Sources
from ditscale.rundir import RunDir, read_lines
from ditscale.studies.plan.probe import shape_of
from ditscale.training.parent import start_images
from ditscale.training.zero.strategy import sharding

PROBED, ASSUMED = "probed", "assumed"


@dataclass(frozen=True)
class Cost:
    """One run: what it trains itself, so of a branch from where it leaves its trunk.

    Hours are accelerator-hours of training, NaN if unknown; ``evaluation_share`` is of all its FLOPs so far, NaN if unknown.
    """

    run_id: str
    planned_flops: int
    images: int
    images_seen: int
    forecast_hours: float
    basis: str
    measured_hours: float
    evaluation_share: float
    start_images: int = 0
    start: str = ""                                                            # where a branch starts, in words


def costs(sources: Sources, table: pd.DataFrame) -> list[Cost]:
    """One entry for each run of the table with a record, in the table's order; if there are no records, for each that the table has finished.

    Args:
        table: every evaluation, of scores and of losses.
    """
    evaluated = _evaluated_flops(table)
    if not sources.records:
        return _of_table(table, evaluated)
    known = [run_id for run_id in dict.fromkeys(table["run_id"]) if "config" in sources.records.get(run_id, {})]
    return [_cost(run_id, sources, evaluated[run_id]) for run_id in known]


def _evaluated_flops(table: pd.DataFrame) -> pd.Series:
    """Of all evaluations of each run; NaN if one did not record it."""
    recorded = table["evaluation_flops"] if "evaluation_flops" in table else pd.Series(math.nan, table.index)
    return recorded.groupby(table["run_id"]).agg(lambda own: own.sum(skipna=False))


def _share(evaluated: float, trained: float) -> float:
    return evaluated / (trained + evaluated) if trained + evaluated > 0 else math.nan


def _of_table(table: pd.DataFrame, evaluated: pd.Series) -> list[Cost]:
    if not {"own_train_flops", "own_accelerator_hours", "forecast_train_seconds", "accelerators"} <= {*table}:
        return []
    found = []
    for row in table[table["final"].astype(bool)].drop_duplicates("run_id").itertuples():
        start, images = int(row.branch_images), row.images_seen
        forecast = _whole_hours(row.forecast_train_seconds, row.accelerators, images, start) * (images - start) / images
        found.append(Cost(row.run_id, row.own_train_flops, images, images, forecast, row.forecast_basis if forecast > 0 else "",
                          row.own_accelerator_hours, _share(evaluated[row.run_id], row.own_train_flops), start,
                          f"{start:,} images of {row.trunk}" if start else "0"))
    return found


def _cost(run_id: str, sources: Sources, evaluated: float) -> Cost:
    record, run = sources.records[run_id], RunDir(sources.path / run_id)
    config = resolve(record["config"], str(run.record))
    last: dict = next(reversed(read_lines(run.metrics)), {})
    images_seen = int(last.get("images_seen", 0))
    whole, basis = _recorded(record, config) or _forecast_hours(config, record.get("environment", {}).get("device", ""), sources.probes)
    begin, before = start_images(config), training_flops(config, config.parent.images) if config.parent else 0
    trained = max(0, images_seen - begin)
    spent = max(0, training_flops(config, images_seen) - before)
    return Cost(run_id, training_flops(config, config.train.images) - before, config.train.images, images_seen,
                whole * trained / config.train.images, basis, float(last.get("accelerator_hours", math.nan)),
                _share(evaluated, spent), begin, f"{begin:,} images of {config.parent.run}" if config.parent else "0")


def _recorded(record: dict, config: RunConfig) -> tuple[float, str] | None:
    """The launch's forecast as ``_forecast_hours`` returns it, for a branch as if it had trained from image 0; None if there is none."""
    made = record.get("forecast") or {}
    if not made.get("train_seconds"):
        return None
    return _whole_hours(made["train_seconds"], config.resources.accelerators_per_run, config.train.images, start_images(config)), made["basis"]


def _whole_hours(own_seconds: float, ranks: int, images: int, start: int) -> float:
    return own_seconds / 3600 * ranks * images / (images - start)


def _forecast_hours(config: RunConfig, device: str, probes: dict) -> tuple[float, str]:
    """Hours for the whole run, and their basis."""
    ranks, steps = config.resources.accelerators_per_run, config.train.images // config.train.global_batch
    probe = probes.get(device, {}).get(shape_of(config))
    if probe:
        return probe["step_seconds"] * steps * ranks / 3600, PROBED
    peak = dense_bf16_flops(device)
    if peak is None or config.resources.micro_batch == "auto":
        return math.nan, ""
    try:
        sent = sharding(config.resources.deepspeed) if ranks > 1 else Sharding()
    except UserError:                                   # its strategy file is not on this machine
        return math.nan, ""
    machine = Machine("gpu", device, ranks, peak, links=gpu_links(device))
    return training_seconds(config, machine, 0, sent) * ranks / 3600, ASSUMED


def section(sources: Sources, table: pd.DataFrame, price: float | None) -> str:
    """The section; empty if no run has a record. With a price per accelerator-hour, also money."""
    found = costs(sources, table)
    if not found:
        return ""
    columns = {
        "Run": [one.run_id for one in found],
        "Training FLOPs planned": [page.Cell(style.power_of_ten(one.planned_flops), one.planned_flops) for one in found],
        "Starts at": [one.start for one in found],
        "Done": [f"{100 * max(0, one.images_seen - one.start_images) / (one.images - one.start_images):.0f} %" for one in found],
        "Hours forecast": [_hours(one.forecast_hours) for one in found],
        "Hours measured": [_hours(one.measured_hours) for one in found],
        "Measured / forecast": [_ratio(one) for one in found],
        "Evaluations' share of FLOPs": [_percent(one.evaluation_share) for one in found],
    }
    if price:
        columns["Money"] = [_money(one.measured_hours * price) for one in found]
    if not any(one.start_images for one in found):
        del columns["Starts at"]
    if not any(one.basis for one in found):
        del columns["Hours forecast"], columns["Measured / forecast"]
    priced = f" Money at {price:g} per accelerator-hour." if price else ""
    parts = [page.paragraph(_introduction(found) + priced), page.table(list(columns), zip(*columns.values()),
                                                              numbers=set(range(1, len(columns))), sortable=True)]
    return page.section("Cost: forecast and actual", *parts)


def _introduction(found: list[Cost]) -> str:
    sentences = ["Accelerator-hours of training, up to the images that each run has seen; the share of evaluations is of sampling and validation losses."]
    bases = {one.basis for one in found}
    both = [one for one in found if one.basis and one.measured_hours > 0]
    if both:
        factor = math.exp(sum(math.log(one.measured_hours / one.forecast_hours) for one in both) / len(both))
        sentences.append(f"Runs took {factor:.2g} times the forecast hours, in the geometric mean over {len(both)}.")
    if PROBED in bases:
        sentences.append("Forecasts are based on 20 measured steps of each shape on the same kind of machine (a probe).")
    if ASSUMED in bases:
        sentences.append("Without a probe, forecasts use the assumptions of `ditscale plan` for the machine.")
    if "" in bases:
        sentences.append("There is no forecast for runs that were launched before launches recorded it, on a machine that was never probed and has no "
                    "known peak, such as a CPU.")
    return " ".join(sentences)


def _percent(share: float) -> page.Cell:
    return page.Cell("not known" if math.isnan(share) else f"{100 * share:.1f} %", share)


def _hours(hours: float) -> page.Cell:
    return page.Cell("not known" if math.isnan(hours) else f"{hours:.3g}", hours)


def _money(amount: float) -> page.Cell:
    return page.Cell("not known" if math.isnan(amount) else f"{amount:,.3g}", amount)


def _ratio(one: Cost) -> page.Cell:
    ratio = one.measured_hours / one.forecast_hours if one.forecast_hours else math.nan
    return page.Cell("" if math.isnan(ratio) else f"{ratio:.2f}", ratio)
