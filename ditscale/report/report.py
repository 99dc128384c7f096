"""The whole study on one page: report.html, and every file of the other scripts beside it.

The page carries its figures and data: it can be mailed. Its path is the last line printed.
"""

import dataclasses
import json
import math
import shlex
import sys
from pathlib import Path

import pandas as pd

import ditscale
from ditscale.errors import UserError
from ditscale.figures import gflops, power_law, samples, study_table, style, table as table_csv, training_compute, variant_table, variants
from ditscale.report import findings, loss_terms, page, variant_page

FIGURES = (
    (gflops.draw, "Score against model compute"),
    (training_compute.draw, "Score against training compute"),
    (samples.draw, "Samples"),
)
RECORD_PARTS = ("config", "environment", "loader")     # what the page shows of each run.json
MANY_VALUES = 16


def write(table: pd.DataFrame, study: str, out: Path, settings: list[tuple[str, str]] = (),
          commands: list[str] = (), terms: pd.DataFrame | None = None, warnings: list[str] = ()) -> list[Path]:
    """Writes all files of the study; ``report.html`` is the last path returned.

    Scaling is shown of one variant, the baseline where there is one; variants are compared in a section of their own.

    Args:
        study: its name.
        settings, commands: what was run, names with values, from ``read_settings``; how to make this page again.
        terms, warnings: what runs logged, and warn of: ``loss_terms``.

    Raises:
        UserError: the scores are not comparable.
    """
    usable, _ = study_table.scored(table, variant_table.SHARED)
    paths = table_csv.write(table, out)
    scaling, whose = _scaling(table, usable)
    compared, compared_paths, differences = _variants(table, out, terms)
    try:
        own, _ = study_table.scored(scaling)
        final, laws, floor = study_table.finished(own), power_law.fit_laws(scaling), study_table.floor_of(own)
        paths += power_law.write(laws, out)
        found = findings.sentences(final, laws["train_flops"], gflops.correlation(scaling), floor)
        title, fits = findings.title(final, laws["train_flops"]), page.section("The laws", *_laws(laws))
        opening = page.findings([*([f"Scaling is told by {whose}."] if whose else []), *found, *differences])
    except UserError as error:                          # a study under way still gets its page
        title, opening, fits = f"Study {study}, under way", page.note(f"No findings yet: {error}."), ""
    figures = []
    for draw, heading in FIGURES:
        part, written = _figure(draw, scaling, out, f" Drawn from {whose} only." if whose else "")
        figures.append(page.section(heading, part))
        paths += written
    figures[2:2] = compared                             # after the training-compute figure
    body = "\n".join([
        opening, *map(page.warning, warnings), *figures, page.section("Every run at its end", _runs(usable)), fits,
        page.section("What was run", page.pairs(_summary(table)), *_settings(settings)),
        page.section("Make it again", page.commands(list(commands)), page.downloads(_carried(out))),
    ])
    report = out / "report.html"
    report.write_text(page.render(title, f"Scaling study {study}", body, f"Made by ditscale {ditscale.__version__}."),
                      encoding="utf-8")
    return [*paths, *compared_paths, report]


def _scaling(table: pd.DataFrame, usable: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of the one variant whose scaling is shown, and those runs in words ("" where there is no other)."""
    if table["variant"].nunique() == 1:
        return table, ""
    main = variant_table.main_variant(usable)
    rows = table[table["variant"] == main]
    return rows, study_table.count(rows["run_id"].nunique(), f"{main} run")


def _variants(table: pd.DataFrame, out: Path, terms: pd.DataFrame | None) -> tuple[list[str], list[Path], list[str]]:
    """The section on the variants, its files and its findings; nothing where there is one variant alone."""
    if table["variant"].nunique() == 1:
        return [], [], []
    part, paths = _figure(variants.draw, table, out)
    tables, found = [], []
    if paths:
        comparisons = variant_table.compare(table)
        tables, found = variant_page.tables(comparisons), variant_page.sentences(comparisons)
        paths.append(variants.write_comparison(table, out))
    logged = variant_page.terms(terms) if terms is not None else []
    return [page.section("Variants", part, *tables, *logged)], paths, found


def read_settings(study_dir: Path, run_ids: list[str]) -> list[tuple[str, str]]:
    """The settings in the runs' ``run.json``, one row a setting; where runs differ, all their values."""
    values: dict[str, dict[str, None]] = {}             # inner dict: an ordered set
    for run_id in sorted(run_ids):
        path = study_dir / run_id / "run.json"
        if not path.is_file():
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        for part in RECORD_PARTS:
            for name, value in _flat(part, record.get(part, {})):
                values.setdefault(name, {})[value] = None
    return [(name, _joined(list(seen))) for name, seen in values.items()]


def _flat(name: str, value) -> list[tuple[str, str]]:
    """Nested dictionaries as dotted names, without the leading ``config``."""
    if not isinstance(value, dict):
        return [(name.removeprefix("config."), str(value))]
    return [pair for key, inner in value.items() for pair in _flat(f"{name}.{key}", inner)]


def _joined(values: list[str]) -> str:
    more = f" and {len(values) - MANY_VALUES} more" if len(values) > MANY_VALUES else ""
    return ", ".join(values[:MANY_VALUES]) + more


def _figure(draw, table: pd.DataFrame, out: Path, remark: str = "") -> tuple[str, list[Path]]:
    """The figure as HTML and its files, the remark at the end of its caption; the reason where it cannot be drawn."""
    try:
        drawing = draw(table)
        drawing = dataclasses.replace(drawing, caption=drawing.caption + remark)
    except UserError as error:
        return page.note(f"Not drawn: {error}."), []
    paths = style.save(drawing, out)
    return page.figure(drawing, (out / f"{drawing.name}.svg").read_text(encoding="utf-8")), paths


def _runs(usable: pd.DataFrame) -> str:
    """One row a run, at its last evaluation, smallest model first. What all runs share has no column."""
    last = usable.groupby("run_id", sort=False).tail(1)
    unit, symbol, _ = style.macs_unit(last["macs"])
    columns = {
        "Model": last["model"],
        "Variant": last["variant"],
        "Seed": last["seed"],
        "Parameters": last["parameters"].map(style.short_count),
        f"{symbol} per image": (last["macs"] / unit).map("{:.3g}".format),
        "Images seen": last["images_seen"].map("{:,.0f}".format),
        "Training FLOPs": last["train_flops"].map(style.power_of_ten),
        "Training time": last["train_seconds"].map(_duration),
        last["metric"].iloc[0]: last["score"].map(style.score_text),
        "Times the floor": (last["score"] / last["floor"]).map(lambda ratio: f"{ratio:.2f}" if ratio > 0 else "none"),
        "Finished": last["final"].map(lambda final: "yes" if final else "no"),
    }
    alike = {"Variant": "variant", "Seed": "seed", "Images seen": "images_seen", "Finished": "final"}
    for name, column in alike.items():
        if last[column].nunique() == 1:
            del columns[name]
    return page.table(list(columns), list(zip(*columns.values())), set(range(1 + ("Variant" in columns), len(columns))))


def _laws(laws: dict[str, power_law.StudyLaw]) -> list[str]:
    """The numbers of each law, one column a law, and the reason where a law or its interval is missing."""
    def numbers(law: power_law.StudyLaw) -> list[str]:
        fit, bounds = law.fit, law.intervals.coefficients.get("alpha")
        if not fit.drawable:
            return ["none"] * 6 + [fit.n_runs]
        return [
            f"{fit.law.A:,.3g}", style.signed(fit.law.alpha),
            f"{style.signed(bounds.low)} to {style.signed(bounds.high)}" if bounds else "none",
            f"{fit.r2:.3f}", f"a factor of {math.exp(fit.residual_spread):.3g}",
            f"{style.signed(100 * fit.hold_out.error, 1)} %" if fit.hold_out else "none", fit.n_runs,
        ]
    names = ["A", "α", "95 % interval of α", "R² of ln y", "Residual spread of y",
             "Error where the largest x is held out", "Runs"]
    rows = list(zip(names, *[numbers(law) for law in laws.values()]))
    why = [page.note(f"Against {power_law.COSTS[cost]}: {law.intervals.sentence}.")
           for cost, law in laws.items() if not law.intervals.status.ok]
    return [
        page.paragraph("Least squares of ln y on ln x in y = A x^−α, one point a finished run. Intervals are "
                       "percentiles over resamples of whole runs; with fewer than about ten runs they lean narrow. "
                       "The law has no floor term and says nothing beyond the span of its points."),
        page.table(["", *[f"x = {power_law.COSTS[cost]}" for cost in laws]], rows, numbers={1, 2}), *why,
    ]


def _summary(table: pd.DataFrame) -> list[tuple[str, str]]:
    """What the table itself says about the study."""
    last = table.sort_values("images_seen").groupby("run_id").tail(1)
    finished = int(table.groupby("run_id")["final"].any().sum())
    listed = {name: _joined([str(v) if isinstance(v, str) else f"{v:,g}" for v in sorted(table[name].unique())])
              for name in ("variant", "formulation", "seed", "samples", "guidance_scale", "nfe", "device", "metric",
                           "passport")}
    runs = last["variant"].value_counts()
    by_variant = _joined([f"{variant} {runs[variant]}" for variant in variant_table.variants_in_order(last)])
    return [
        ("Runs", f"{last['run_id'].nunique()}, of which {finished} finished"),
        *([("Runs by variant", by_variant)] if len(runs) > 1 else []),
        ("Evaluations", f"{len(table)}"),
        ("Variant and formulation", f"{listed['variant']}; {listed['formulation']}"),
        ("Seeds", listed["seed"]),
        ("Images seen by each run", _joined([f"{n:,}" for n in sorted(last["images_seen"].unique())])),
        ("Training compute, all runs", f"{style.power_of_ten(last['train_flops'].sum())} FLOPs"),
        ("Training time, all runs", _duration(last["train_seconds"].sum())),
        ("Trained on", listed["device"]),
        ("Metric", listed["metric"]),
        ("Images generated for each score", listed["samples"]),
        ("Guidance scale; model calls per image (NFE)", f"{listed['guidance_scale']}; {listed['nfe']}"),
        ("Evaluation passport", listed["passport"]),
    ]


def _settings(settings) -> list[str]:
    if not settings:
        return [page.note("No run.json was found beside the evaluations: the settings of the runs are not shown.")]
    return [page.folded(f"All {len(settings)} settings of the runs", page.pairs(list(settings)))]


def _carried(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("table.csv", "power_law.json") if (out / name).is_file()}


def _duration(seconds: float) -> str:
    if math.isnan(seconds):                             # the ledger has no time for this run
        return "unknown"
    for length, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _launch(name: str) -> list[str]:
    """The command that runs the study again, where its spec is among ours."""
    specs = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
    named = [spec.name for spec in specs if f"name: {name}" in spec.read_text(encoding="utf-8").splitlines()]
    return [f"ditscale launch sweeps/{spec}" for spec in named[:1]]


def main(argv: list[str] | None = None) -> int:
    command = shlex.join(["ditscale", "report", *(sys.argv[1:] if argv is None else argv)])

    def make(table: pd.DataFrame, study: Path, out: Path) -> list[Path]:
        name = study.resolve().name
        settings = read_settings(study, list(table["run_id"].unique()))
        return write(table, name, out, settings, [*_launch(name), command], loss_terms.read(study, table),
                     loss_terms.warnings(study, table))

    return study_table.run_script(__doc__, make, argv)
