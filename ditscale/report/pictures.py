"""The figures of the report page, in order. To add one, add a line to ``PICTURES``."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pandas as pd

from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import LOSS
from ditscale.figures.kit import law_points, panels, style, variant_table
from ditscale.figures.plots import (
    block_designs,
    branches,
    bubbles,
    cost_quality,
    critical_batch,
    frontier,
    gflops,
    isoflop,
    learning_rate,
    loss_curves,
    methods,
    metrics,
    samples,
    throughput,
    training_curves,
    validation,
)
from ditscale.objectives import BASELINE
from ditscale.report import page
from ditscale.report.sources import Sources


class Shown(NamedTuple):
    """The data for figures: rows of scores, the rows of the variant used for scaling, a description of its runs, the study's files;
    ``whole`` also has validation losses."""

    table: pd.DataFrame
    scaling: pd.DataFrame
    selection: str
    sources: Sources
    whole: pd.DataFrame


class Picture(NamedTuple):
    """``applies``: whether this study has data for the figure. ``of_scaling``: drawn from one variant, which the caption names."""

    heading: str
    draw: Callable[[Shown], style.Drawing]
    applies: Callable[[Shown], bool] = lambda shown: True
    of_scaling: bool = True


def _several(*columns: str) -> Callable[[Shown], bool]:
    """Whether each of these columns has two values or more."""
    return lambda shown: all(shown.scaling[column].nunique() > 1 for column in columns)


def _measured(shown: Shown) -> bool:
    runs = shown.sources.runs
    return runs is not None and len(runs) > 1 and "images_per_second" in runs and (runs["images_per_second"] > 0).any()


def _has_budgets(shown: Shown) -> bool:
    try:
        return len(isoflop.find(law_points.choose(shown.scaling))[0]) > 1
    except UserError:
        return False


def _has_methods(shown: Shown) -> bool:
    """Whether several metrics compare methods with the plain baseline; of one alone the section on variants has all."""
    return "method" in shown.whole and shown.whole["metric"].nunique() > 1 and {BASELINE} < set(shown.whole["method"])


# The scripts' own defaults.
OPTIONS = SimpleNamespace(study=Path("."), cost="train_flops", price=None, over=variant_table.BASELINE, images_to_make=None)

PICTURES = (
    Picture("Cost against quality", lambda shown: cost_quality.draw(shown.table, OPTIONS),
            lambda shown: shown.table["variant"].nunique() > 1, of_scaling=False),
    Picture("Methods by each metric", lambda shown: methods.draw(shown.whole), _has_methods, of_scaling=False),
    Picture("The frontier", lambda shown: frontier.draw(shown.table, OPTIONS), lambda shown: "recipe" in shown.table, of_scaling=False),
    Picture("Equal compute", lambda shown: isoflop.draw(shown.scaling), _has_budgets),
    Picture("Score against model compute", lambda shown: gflops.draw(shown.scaling), _several("model")),
    Picture("Score by size and patch size", lambda shown: bubbles.draw(shown.scaling), _several("size", "patch_size")),
    Picture("Score over training", lambda shown: training_curves.draw(shown.scaling), _several("model", "images_seen")),
    Picture("Branches against their trunks", lambda shown: branches.draw(shown.scaling),
            lambda shown: "branch_images" in shown.scaling and (shown.scaling["branch_images"] > 0).any()),
    Picture("Learning rates", lambda shown: learning_rate.draw(shown.whole),
            lambda shown: "lr" in shown.whole and shown.whole.groupby(["model", "variant"])["lr"].nunique().max() > 1, of_scaling=False),
    Picture("Critical batch size", lambda shown: critical_batch.draw(shown.whole),
            lambda shown: "critical_batch" in shown.whole and shown.whole["critical_batch"].notna().any(), of_scaling=False),
    Picture("Block designs", lambda shown: block_designs.draw(shown.scaling), lambda shown: _blocks(shown.scaling) > 1),
    Picture("Other metrics", lambda shown: metrics.draw(shown.scaling), lambda shown: len(metrics.held_by(shown.scaling)) > 1),
    Picture("Samples", lambda shown: samples.draw(shown.scaling)),
    Picture("Validation loss", lambda shown: validation.draw(shown.whole), lambda shown: (shown.whole["metric"] == LOSS).any(),
            of_scaling=False),
    Picture("Training losses", lambda shown: loss_curves.draw(shown.sources.losses), lambda shown: shown.sources.losses is not None,
            of_scaling=False),
    Picture("Speed and memory", lambda shown: throughput.draw(shown.sources.runs), _measured, of_scaling=False),
)


def jobs(shown: Shown, out: Path) -> dict[str, Callable[[], tuple[str, list[Path]]]]:
    """What draws each figure that applies, by its heading."""
    def job(picture: Picture) -> Callable[[], tuple[str, list[Path]]]:
        return lambda: figure(picture.draw, shown, out, picture.of_scaling)
    return {picture.heading: job(picture) for picture in PICTURES if picture.applies(shown)}


def sections(headings: Iterable[str], drawn: Callable[[str], tuple[str, list[Path]]]) -> tuple[list[str], list[Path]]:
    """A section for each heading, with the figure that ``drawn`` gives of it, and the files written; at the end, what could not be drawn
    and why."""
    parts: list[str] = []
    paths: list[Path] = []
    refused: dict[str, list[str]] = {}
    for heading in headings:
        try:
            part, written = drawn(heading)
        except UserError as error:
            refused.setdefault(str(error), []).append(heading)
            continue
        parts.append(page.section(heading, part))
        paths += written
    if refused:
        notes = [page.note(f"{', '.join(headings)}: {why}.") for why, headings in refused.items()]
        parts.append(page.section("Not drawn", *notes))
    return parts, paths


def figure(draw: Callable[[Shown], style.Drawing], shown: Shown, out: Path, of_scaling: bool = True) -> tuple[str, list[Path]]:
    """The figure as HTML, and its files.

    Raises:
        UserError: it cannot be drawn.
    """
    drawing = draw(shown)
    if of_scaling and shown.selection:
        drawing = dataclasses.replace(drawing, caption=f"{drawing.caption} Drawn from {shown.selection} only.")
    paths = style.save(drawing, out)
    return page.figure(drawing, (out / f"{drawing.name}.svg").read_text(encoding="utf-8")), paths


def _blocks(rows: pd.DataFrame) -> int:
    return len(set(rows["block"]) & set(panels.BLOCK_NAMES)) if "block" in rows else 0
