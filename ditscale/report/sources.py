"""Reads a study's own files for the report: records of runs, logs, warnings, probes."""

import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.evaluation.passport import SEED, digest
from ditscale.figures.kit import study_table, variant_table
from ditscale.figures.plots import loss_curves
from ditscale.formats import NewerFormat
from ditscale.rundir import EVALUATION, RunDir, read_lines
from ditscale.studies.alarms import Sibling, warnings_of
from ditscale.studies.table import ledger

RECORD_PARTS = ("config", "environment", "loader")     # the parts of each run.json that the page shows
MANY_VALUES = 16
CODE = {"Code: ditscale": "ditscale_version", "Code: git commit": "git_commit", "Code: PyTorch": "torch_version", "Code: DeepSpeed": "deepspeed_version"}
WITHOUT_RUNS = ("Made from a table without run directories: training losses, sample sheets, warnings and the complete settings of the runs are in those and "
                "not on this page.")
TERMS = ("loss/", "watch/")
TERM_COLUMNS = ["run_id", "model", "variant", "seed", "term", "watched", "first", "last"]


@dataclass(frozen=True, eq=False)
class Sources:
    """The study's own files; empty if the report is made from a CSV only.

    Attributes:
        records: run.json by run.
        terms: the first and last value of each loss term, ``loss_terms``.
        losses: every logged loss of these runs, ``loss_curves.read``; None if nothing was logged.
        runs: one row per run, ``study_table.read_runs``; None if there are none.
        probes: seconds per step by machine and shape, ``probes.json``.
        lacks: what this page does not have, as the study has no run directories, in a sentence; "" if it has them.
        passports: fields and number of evaluations of each passport in the study, by its digest without the samples' seed.
    """

    path: Path | None = None
    records: dict[str, dict] = field(default_factory=dict)
    terms: pd.DataFrame | None = None
    losses: pd.DataFrame | None = None
    runs: pd.DataFrame | None = None
    warnings: list[str] = field(default_factory=list)
    probes: dict[str, dict] = field(default_factory=dict)
    passports: dict[str, tuple[dict, int]] = field(default_factory=dict)
    lacks: str = ""

    @property
    def settings(self) -> list[tuple[str, str]]:
        return settings_of(self.records)


def read(study: Path, table: pd.DataFrame) -> Sources:
    """Reads the files of a study's directory; of a CSV or a directory without runs what the table says of each run."""
    if not study.is_dir() or ledger.landed_table(study):
        return Sources(study if study.is_dir() else None, runs=ledger.runs_of(table), lacks=WITHOUT_RUNS)
    run_ids = sorted(table["run_id"].unique())
    records = {run_id: record for run_id in run_ids if (record := _record(RunDir(study / run_id)))}
    runs = _found(lambda: study_table.read_runs(study))
    losses = None
    if runs is not None:
        runs = runs[runs["run_id"].isin(run_ids)].reset_index(drop=True)
        losses = _found(lambda: loss_curves.read(study, runs))
    warned = [*_warned(study, table), *_alarms(study, records), *(_found(lambda: ledger.left_out(study)) or [])]
    return Sources(study, records, loss_terms(study, table), losses, runs, warned,
                   _probes(study / "probes.json"), _passports(study))


def _record(run: RunDir) -> dict:
    """The content of run.json; empty if there is none, and empty with a warning if it is damaged.

    Raises:
        NewerFormat: it was written by a later version.
    """
    if not run.record.is_file():
        return {}
    try:
        return run.read_record()
    except NewerFormat:
        raise
    except UserError as error:
        warnings.warn(f"{error}; it was left out", stacklevel=1)
        return {}


def loss_terms(study_dir: Path, table: pd.DataFrame) -> pd.DataFrame:
    """One row per loss term of each run that is not a baseline, by model, variant and seed; losses first. The first and last line
    with the term count: a masked run's unmasking stage, for example, logs no reconstruction."""
    runs = table[table["variant"] != variant_table.BASELINE].drop_duplicates("run_id")
    smallest, place = runs.groupby("model")["parameters"].min(), variant_table.variants_in_order(runs).index
    runs = runs.assign(_model=runs["model"].map(smallest), _variant=runs["variant"].map(place))
    rows = []
    for run in runs.sort_values(["_model", "model", "_variant", "seed"]).itertuples():
        lines = read_lines(RunDir(study_dir / run.run_id).metrics)
        names = dict.fromkeys(name for line in lines for name in line if name.startswith(TERMS))
        for name in sorted(names, key=lambda name: name.startswith(TERMS[1])):
            values = [line[name] for line in lines if name in line]
            part, _, term = name.partition("/")
            rows.append((run.run_id, run.model, run.variant, run.seed, term, part == "watch", values[0], values[-1]))
    return pd.DataFrame(rows, columns=TERM_COLUMNS)


def _warned(study_dir: Path, table: pd.DataFrame) -> list[str]:
    """Warnings from the runs' status, for example about a collapse."""
    runs = [RunDir(study_dir / run_id) for run_id in sorted(table["run_id"].unique())]
    return [f"{run.run_id}: {run.status()['warning']}" for run in runs if run.status().get("warning")]


def _alarms(study_dir: Path, records: dict[str, dict]) -> list[str]:
    """Warnings about jobs that are not done, from comparison with the study's other runs."""
    siblings = [Sibling(RunDir(study_dir / run_id), resolve(record["config"], run_id)) for run_id, record in records.items()]
    return [f"{run_id}: {sentence}" for run_id, sentence in warnings_of(siblings).items()]


def _probes(path: Path) -> dict[str, dict]:
    """The measured probes; empty if the file is damaged, as a page does not need a forecast."""
    found = _json(path)
    try:
        return {name: {shape: {"step_seconds": float(probe["step_seconds"])} for shape, probe in shapes.items()}
                for name, shapes in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(f"{path} is damaged and was left out: {error!r}", stacklevel=1)
        return {}


def _json(path: Path) -> dict:
    """The object in a file; empty if there is no file, and empty with a warning if it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        problem = "not an object"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        problem = str(error)
    warnings.warn(f"{path} is damaged and was left out: {problem}", stacklevel=1)
    return {}


def _passports(study: Path) -> dict[str, tuple[dict, int]]:
    """The passports of every evaluation in the study's directory, whichever rows the report keeps."""
    found: dict[str, tuple[dict, int]] = {}
    for path in sorted(study.glob("*/evals.jsonl")):
        for line in read_lines(path, "images_seen", *EVALUATION):
            name = digest(line["passport"], without=(SEED,))
            fields, count = found.get(name, (line["passport"], 0))
            found[name] = fields, count + 1
    return found


def _found(make):
    try:
        return make()
    except UserError:
        return None


def settings_of(records: dict[str, dict]) -> list[tuple[str, str]]:
    """The settings in the runs' records, one row per setting; if runs differ, all values."""
    return _by_name(pair for record in records.values() for part in RECORD_PARTS for pair in _flat(part, record.get(part, {})))


def made_with(records: dict[str, dict], runs: pd.DataFrame | None = None) -> list[tuple[str, str]]:
    """The code that trained the runs, and the data digests in their records; without records, the code by the table's ``runs``; empty if there are none."""
    found: list[tuple[str, str]] = []
    if not records and runs is not None:
        for name, column in CODE.items():
            found += [(name, value) for value in runs.get(column, ())]
    for record in records.values():
        environment = record.get("environment", {})
        found += [(name, environment.get(key)) for name, key in zip(CODE, ("ditscale", "git_commit", "torch", "deepspeed"))]
        found += [(f"Data: {name.replace('record.', '')}", value) for name, value in _flat("record", record) if name.endswith("sha256")]
    return _by_name((name, str(value)) for name, value in found if value)


def _by_name(found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """All distinct values of each name, in order of first appearance."""
    values: dict[str, dict[str, None]] = {}             # inner dict: an ordered set
    for name, value in found:
        values.setdefault(name, {})[value] = None
    return [(name, joined(list(seen))) for name, seen in values.items()]


def _flat(name: str, value) -> list[tuple[str, str]]:
    """Nested dictionaries as dotted names, without the leading ``config``."""
    if not isinstance(value, dict):
        return [(name.removeprefix("config."), str(value))]
    return [pair for key, inner in value.items() for pair in _flat(f"{name}.{key}", inner)]


def joined(values: list[str]) -> str:
    more = f" and {len(values) - MANY_VALUES} more" if len(values) > MANY_VALUES else ""
    return ", ".join(values[:MANY_VALUES]) + more
