"""Writes report.html and, next to it, the files of all other figure scripts.

The page contains its figures and data, so it can be sent by mail. Its path is the last line printed.
"""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

import ditscale
from ditscale.errors import UserError
from ditscale.figures.kit import one_length, study_table, style, variant_table
from ditscale.figures.kit.script import Script
from ditscale.figures.plots import gflops, power_law, table as table_csv, training_compute, variants
from ditscale.report import (
    ahead,
    cards,
    deployment,
    explorer,
    findings,
    forecast,
    page,
    passports,
    pictures,
    predictions,
    sources,
    tables,
    variant_page,
    verdicts,
)
from ditscale.report.pictures import Shown
from ditscale.report.sources import Sources
from ditscale.studies.spec.templates import CHECKOUT, templates
from ditscale.studies.table.comparable import main_rows
from ditscale.writing import writing

STATIC, VARIANTS = "training compute", "variants"                              # figures that no line of PICTURES draws
Drawn = Callable[[str], tuple[str, list[Path]]]                                # a figure by its name, as HTML, and its files
CARRIED = ("table.csv", "power_law.json", "verdicts.json")                     # files embedded in the page
CHART, SORT = ((Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("chart.js", "sort.js"))


def write(table: pd.DataFrame, study: str, out: Path, files: Sources = Sources(), commands: Sequence[str] = (),
          price: float | None = None) -> list[Path]:
    """Writes all files of the study; ``report.html`` is the last path returned.

    Scaling is shown for one variant, the baseline if there is one; a separate section compares variants.

    Args:
        study: its name.
        files: data from the study's files in addition to the table.
        commands: how to make this page again.
        price: price of one accelerator-hour.

    Raises:
        UserError: the scores are not comparable.
    """
    whole, table = table, main_rows(table)
    usable, _ = study_table.scored(table, variant_table.SHARED)
    shown = Shown(table, *_scaling(table, usable), files, whole)
    paths = table_csv.write(whole, out)
    title, found, laws, law_paths = _laws(shown, study, out)
    named = pictures.jobs(shown, out)
    with ahead.drawn(_figures(shown, laws, out) | named) as drawn:
        verdict = verdicts.read(table, files.path or Path("."))
        paths.append(style.write_json(out / "verdicts.json", verdict.cards))
        compared, compared_paths = _variants(shown, drawn)
        static, static_paths = _static(drawn)
        figures, figure_paths = pictures.sections(named, drawn)
    body = "\n".join(filter(None, [
        page.verdicts(verdict.rows), found, page.note(files.lacks) if files.lacks else "", *map(page.warning, files.warnings),
        page.section("Score against training compute", explorer.section(usable, static, price)), *compared, *figures,
        deployment.section(usable), predictions.section(files.path, whole), page.section("Every run at its end", tables.runs(usable)),
        _fits(laws, verdict.cards), forecast.section(files, whole, price),
        passports.section(whole, files.passports),
        page.section("What was run", page.pairs(tables.summary(table, whole)), *_settings(files)),
        page.section("Reproduce", *_made_with(files), page.commands(list(commands)), page.downloads(_carried(out))),
    ]))
    report = out / "report.html"
    text = page.render(title, f"Scaling study {study}", body, f"Made by ditscale {ditscale.__version__}.", [CHART, explorer.SCRIPT, deployment.SCRIPT, SORT])
    with writing(report):
        report.write_text(text, encoding="utf-8")
    return [*paths, *law_paths, *static_paths, *compared_paths, *figure_paths, report]


def _scaling(table: pd.DataFrame, usable: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of the variant used for scaling, and a description of its runs ("" if there is no other variant)."""
    if table["variant"].nunique() == 1:
        return table, ""
    main = variant_table.main_variant(usable)
    rows = table[table["variant"] == main]
    return rows, study_table.count(rows["run_id"].nunique(), f"{main} run")


def _laws(shown: Shown, study: str, out: Path) -> tuple[str, str, dict[str, power_law.StudyLaw], list[Path]]:
    """The page's title, the findings as HTML, the laws and their file; an unfinished study gets the reason instead of findings."""
    try:
        own, _ = study_table.scored(shown.scaling)
        final, laws, floor = study_table.finished(own), power_law.fit_laws(shown.scaling), study_table.floor_of(own)
        several, (alike, _) = one_length.has_several(final), one_length.at_one_count(own)
        sentences = findings.sentences(final, laws["train_flops"], gflops.correlation(shown.scaling), floor, alike if several else None)
        title = (findings.title(alike, laws["macs"], one_length.where(alike)) if several
                 else findings.title(final, laws["train_flops"]))
    except UserError as error:
        return f"Study {study}, unfinished", page.note(f"No findings on scaling yet: {error}."), {}, []
    note = [f"Findings on scaling use only {shown.selection}."] if shown.selection else []
    return title, page.findings([*note, *sentences]), laws, power_law.write(laws, out)


def _figures(shown: Shown, laws: dict[str, power_law.StudyLaw], out: Path) -> dict[str, Callable[[], tuple[str, list[Path]]]]:
    """What draws the figures that no line of PICTURES names."""
    found = {STATIC: lambda: pictures.figure(lambda own: training_compute.draw(own.scaling, law=laws.get("train_flops")), shown, out)}
    if shown.table["variant"].nunique() > 1:
        found[VARIANTS] = lambda: pictures.figure(lambda own: variants.draw(own.table), shown, out, of_scaling=False)
    return found


def _static(drawn: Drawn) -> tuple[str, list[Path]]:
    """The figure of training compute, shown instead of the explorer in print and without scripts."""
    try:
        return drawn(STATIC)
    except UserError as error:
        return page.note(f"Not drawn: {error}."), []


def _variants(shown: Shown, drawn: Drawn) -> tuple[list[str], list[Path]]:
    """The section on the variants and its files; empty if there is only one variant."""
    if shown.table["variant"].nunique() == 1:
        return [], []
    try:
        comparisons = variant_table.compare(shown.table)
        part, paths = drawn(VARIANTS)
    except UserError as error:
        return [page.section("Variants", page.note(f"Not drawn: {error}."))], []
    terms = variant_page.terms(shown.sources.terms) if shown.sources.terms is not None else []
    logged = [page.folded("Loss of each variant, first and last logged", "\n".join(terms))] if terms else []
    section = page.section("Variants", page.findings(variant_page.sentences(comparisons)), part, *variant_page.tables(comparisons), *logged)
    return [section], paths


def _fits(laws: dict[str, power_law.StudyLaw], others: dict[str, dict]) -> str:
    """The laws' numbers, and the cards of all fits and verdicts."""
    held = {f"Law of the score against {power_law.COSTS[cost]}": law.card() for cost, law in laws.items()} | others
    folded = [page.folded(f"Card: {name}", cards.definitions(card)) for name, card in held.items()]
    return page.section("The laws", *(tables.laws(laws) if laws else []), *folded) if held else ""


def _settings(files: Sources) -> list[str]:
    settings = files.settings
    if not settings:
        return [] if files.lacks else [page.note("No run.json was found next to the evaluations: the settings of the runs are not shown.")]
    return [page.folded(f"All {len(settings)} settings of the runs", page.pairs(settings))]


def _made_with(files: Sources) -> list[str]:
    rows = sources.made_with(files.records, files.runs)
    return [page.pairs(rows)] if rows else []


def _carried(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in CARRIED if (out / name).is_file()}


def _launch(name: str) -> list[str]:
    """The commands that run the study again, if its spec comes with ditscale."""
    for short, spec in templates().items():
        if re.search(rf"^name: {re.escape(name)}(\s|$)", spec.read_text(encoding="utf-8"), re.MULTILINE):
            return [f"ditscale launch sweeps/{spec.name}"] if CHECKOUT else [f"ditscale init {short}", f"ditscale launch {spec.name}"]
    return []


def script(words: list[str]) -> Script:
    """The command; ``words`` are the arguments of ``ditscale report`` that the page shows for making it again."""
    def make(table: pd.DataFrame, arguments: SimpleNamespace, out: Path) -> list[Path]:
        if arguments.price is not None and not 0 < arguments.price < float("inf"):
            raise UserError(f"--price {arguments.price:g}: give the price of one accelerator-hour, above 0, for example 2.5")
        name, command = arguments.study.resolve().name, shlex.join(["ditscale", "report", *words])
        return write(table, name, out, sources.read(arguments.study, table), [*_launch(name), command], arguments.price)

    price = {"type": float, "metavar": "X", "help": "Price per accelerator-hour: adds costs in money."}
    return Script(__doc__, make, {"price": price}, every_metric=True)


def main(argv: list[str] | None = None) -> int:
    return script(sys.argv[1:] if argv is None else argv).main(argv)
