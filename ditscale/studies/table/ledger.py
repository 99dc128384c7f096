"""The ledger: a study's run directories as one table with one row per evaluation. Nothing is stored here, except that a folder without
runs may have the table of ``ditscale collect``: a study that was published without its run directories.

Column ``passport`` is a hash of a passport without the seed of the samples: equal ones are repetitions of one score. Column
``recipe`` is a hash of a run's science without its seed and scoring: runs of equal recipes differ only by chance. The
further metrics are columns ``values.<name>``, one for each that any evaluation of the study has. Costs are from image 0 on, also of a
branch; those that begin with ``own_`` are of what the run trained itself.
"""

import json
import math
import warnings
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.config import RunConfig, resolve
from ditscale.cost.runs import inherited_flops, plain_tokens_per_parameter, training_flops
from ditscale.errors import UserError
from ditscale.evaluation.passport import SEED, digest
from ditscale.formats import NewerFormat
from ditscale.rundir import DONE, EVALUATION, RunDir, read_lines, scan_lines
from ditscale.studies.table import csv_table, facts
from ditscale.training.parent import start_images

VALUES = "values."
LANDED = "table.csv"                                                           # the table of a study without its run directories
EVALUATED = ("images_seen", "final", "train_flops", "own_train_flops", "tokens_per_parameter", "train_seconds", "own_train_seconds", "accelerator_hours",
             "own_accelerator_hours", "critical_batch", "critical_batch_adam", "metric", "score", "score_error", "floor", "samples", "guidance_scale", "nfe",
             "passport", "sample_seed", "passport_fields", "evaluation_seconds", "evaluation_flops", "forwards_per_image", "sample_sheet")
CRITICAL = {"critical_batch": "batch/critical", "critical_batch_adam": "batch/critical_adam"}   # by their names in metrics.jsonl
LOGGED, EVALUATED_LINE = ("images_seen", "seconds"), ("images_seen", *EVALUATION)    # fields that every line needs
COLUMNS = (*facts.COLUMNS, "recipe", *EVALUATED)
ORDER = ("train_flops", "run_id", "images_seen", "metric", "passport", "sample_seed")    # of rows


class Imported(UserError):
    """A run of imported weights, which no table of a study has."""


def collect(study) -> pd.DataFrame:
    """Every evaluation of a study directory, in ``ORDER``; of one without runs, the rows of its table.csv.

    Raises:
        UserError: the directory does not exist, or has neither a run nor a table.
    """
    if landed := landed_table(Path(study)):
        return csv_table.read(landed)
    rows = [row for read in _readable(Path(study)) for row in _rows(*read)]
    values = dict.fromkeys(name for row in rows for name in row if name.startswith(VALUES))
    table = pd.DataFrame(rows, columns=[*COLUMNS, *values])
    return table.sort_values(list(ORDER), ignore_index=True)


def collect_runs(study) -> pd.DataFrame:
    """The facts in each run's files, one row per run, evaluated or not: ``facts.COLUMNS``; of a study without runs, those that its table.csv has.

    Raises:
        UserError: as ``collect``.
    """
    if landed := landed_table(Path(study)):
        return runs_of(csv_table.read(landed))
    rows = [facts.run_facts(*read) for read in _readable(Path(study))]
    return pd.DataFrame(rows, columns=facts.COLUMNS).sort_values(["macs", "run_id"], ignore_index=True)


def runs_of(table: pd.DataFrame) -> pd.DataFrame:
    """One row per run of a table of evaluations: those of ``facts.COLUMNS`` that it has."""
    runs = table.drop_duplicates("run_id")[[name for name in facts.COLUMNS if name in table]]
    return runs.sort_values(["macs", "run_id"], ignore_index=True)


def landed_table(study: Path) -> Path | None:
    """The table of a study that has no run directory; None if it has one, or no table."""
    table = study / LANDED
    return table if table.is_file() and not any(study.glob("*/run.json")) else None


def run_dirs(study: Path) -> list[RunDir]:
    """The runs of a study, by name.

    Raises:
        UserError: there is none.
    """
    if study.suffix == ".csv" and not study.exists():
        raise UserError(f"{study}: no such file")
    if study.is_file() or landed_table(study):
        raise UserError(f"{study} {'is' if study.is_file() else 'has only'} a table of scores, and this needs the run directories themselves (their run.json, "
                        "metrics.jsonl and evals.jsonl)")
    if not study.is_dir():
        raise UserError(f"{study} is not a study directory; `ditscale launch` makes one under runs/")
    runs = [RunDir(record.parent) for record in sorted(study.glob("*/run.json"))]
    if not runs:
        raise UserError(f"{study} has no run (no */run.json) and no {LANDED}")
    return runs


def left_out(study) -> list[str]:
    """The damaged files of a study and how many of their lines are ignored, in words; empty if none is damaged."""
    found = []
    for run in [] if landed_table(Path(study)) else run_dirs(Path(study)):
        try:
            _record(run)
        except NewerFormat:
            raise
        except UserError as error:
            found.append(f"a run is left out: {error}")
            continue
        for path, needed in ((run.metrics, LOGGED), (run.evals, EVALUATED_LINE)):
            if lines := len(scan_lines(path, *needed)[1]):
                found.append(f"{lines} line{'s' * (lines > 1)} of {path} left out")
    return found


def _readable(study: Path) -> list[tuple[RunDir, dict, RunConfig, list[dict]]]:
    """Each run with its record, its config and its log lines; one with a damaged record is left out with a warning.

    Raises:
        UserError: as ``run_dirs``, or no record is usable.
    """
    found, problems = [], []
    for run in run_dirs(study):
        try:
            found.append((run, *_record(run), read_lines(run.metrics, *LOGGED)))
        except NewerFormat:
            raise
        except UserError as error:
            problems.append(error)
    if not found and all(isinstance(problem, Imported) for problem in problems):
        raise UserError(f"{study} has no run with scores of its own training: it holds imported weights alone; `ditscale compare` takes them")
    for problem in problems:
        warnings.warn(f"a run is left out: {problem}", stacklevel=1)
    if not found:
        raise problems[-1]
    return found


def _record(run: RunDir) -> tuple[dict, RunConfig]:
    """A run's record and its config. Raises UserError if they are incomplete."""
    record = run.read_record()
    if record["config"].get("imported"):
        raise Imported(f"{run.path} holds imported weights, whose training cost is unknown; `ditscale compare` takes it")
    cost = record.get("cost") or {}
    if missing := [name for name in facts.OF_COST if type(cost.get(name)) not in (int, float)]:
        raise UserError(f"{run.record} is damaged: its cost has no number {missing[0]}")
    return record, resolve(record["config"], str(run.record))


def _rows(run: RunDir, record: dict, config: RunConfig, metrics: list[dict]) -> list[dict]:
    evals, of_run = read_lines(run.evals, *EVALUATED_LINE), facts.run_facts(run, record, config, metrics)
    last = max((line["images_seen"] for line in evals), default=0)
    done = run.status()["state"] == DONE
    totals = {"train_seconds": np.cumsum([m["seconds"] for m in metrics]), "accelerator_hours": [m.get("accelerator_hours", np.nan) for m in metrics]}
    before = record.get("parent") or {} if config.parent else dict.fromkeys(totals, 0.0)
    critical = {column: [(line["images_seen"], line[name]) for line in metrics if name in line] for column, name in CRITICAL.items()}
    rows = []
    for line in evals:
        own = {name: spent(metrics, total, line["images_seen"], start_images(config)) for name, total in totals.items()}
        rows.append({**of_run, "recipe": config.recipe(), **_evaluation(run, config, line), "final": done and line["images_seen"] == last,
                     **{name: cost + before.get(name, math.nan) for name, cost in own.items()}, **{f"own_{name}": cost for name, cost in own.items()},
                     **{column: _last(known, line["images_seen"]) for column, known in critical.items()}})
    return rows


def spent(metrics: list[dict], totals, images_seen: int, start: int = 0) -> float:
    """The cost of training up to ``images_seen``, from the running totals in each line of metrics.jsonl; NaN if they are missing.

    ``start`` is where the run itself began. Each checkpoint has its own line; runs of earlier versions may have one between two lines, and the
    time is then interpolated by images.
    """
    if not metrics or images_seen > metrics[-1]["images_seen"]:
        return math.nan
    return float(np.interp(images_seen, [start, *(line["images_seen"] for line in metrics)], [0.0, *totals]))


def _last(known: list[tuple[int, float]], images_seen: int) -> float:
    """The last value logged up to ``images_seen``, of (images, value) in order; NaN without one."""
    at = bisect_right(known, images_seen, key=lambda pair: pair[0])
    return known[at - 1][1] if at else math.nan


def _evaluation(run: RunDir, config: RunConfig, line: dict) -> dict:
    """The values of one line of evals.jsonl."""
    images_seen, passport = line["images_seen"], line["passport"]
    sheet = run.samples / f"images-{images_seen:012d}.npz"
    return {
        "images_seen": images_seen, "train_flops": (flops := training_flops(config, images_seen)),
        "own_train_flops": flops - inherited_flops(config),
        "tokens_per_parameter": plain_tokens_per_parameter(config, images_seen), "metric": line["metric"],
        "score": line["score"], "score_error": _number(line, "error"), "floor": line.get("floor"), "samples": _number(passport, "samples"),
        "guidance_scale": passport.get("guidance_scale"), "nfe": passport.get("nfe"), "passport": digest(passport, without=(SEED,)),
        "sample_seed": passport.get(SEED), "passport_fields": json.dumps(passport, sort_keys=True),
        "evaluation_seconds": _number(line, "seconds"), "evaluation_flops": _number(line, "sampling_flops"),
        "forwards_per_image": _number(line, "forwards_per_image"), "sample_sheet": str(sheet.resolve()) if sheet.exists() else "",
        **{VALUES + name: value for name, value in (line.get("values") or {}).items()},
    }


def _number(line: dict, name: str) -> float:
    value = line.get(name)
    return math.nan if value is None else value
