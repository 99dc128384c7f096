"""``plan --power``: the smallest differences that a planned study will probably be able to tell, given the noise of an earlier one."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from ditscale.cost.runs import training_flops
from ditscale.errors import UserError, count
from ditscale.evaluation.metrics.table import LOSS
from ditscale.objectives import BASELINE
from ditscale.scaling.differences import MIN_SEEDS
from ditscale.scaling.power import POWER, Course, smallest, smallest_multiplier
from ditscale.studies.plan.show import short_count
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun
from ditscale.studies.table.study import Study
from ditscale.training.schedule import due_images, validated_images

NUMBER = re.compile(r"([0-9.]+(?:e-?[0-9]+)?)\s*(%?)")
MORE = (3, 5, 8, 12)                                                           # seeds each, for comparison


@dataclass(frozen=True)
class Given:
    """What is known of the scores: ``sigma`` of ln score among seeds, and from a study the upper end of its interval and how runs improve."""

    sigma: float
    words: str
    upper: float = math.nan
    luck_share: float = 1.0
    slope: float = math.nan                                                    # -d ln score / d ln training FLOPs


@dataclass(frozen=True)
class Comparison:
    """Recipes of one model and length that the study compares with one of them, with equal numbers of seeds."""

    model: str
    images: int
    names: tuple[str, ...]
    baseline: str
    seeds: tuple[int, int]
    costs: tuple[float, ...]                                                   # of the points of the baseline's curves


def given(text: str, metric: str) -> Given:
    """The noise: a number (``0.02``, ``2%``), or the folder of a study that has scores of ``metric``.

    Raises:
        UserError: it is neither, or the study has no repeated runs.
    """
    if number := NUMBER.fullmatch(text):
        sigma = float(number[1]) / (100 if number[2] else 1)
        if not 0 < sigma < 1:
            raise UserError(f"--power {text}: the noise of a score among seeds must be above 0 and below 1; 0.02 or 2% is usual for FID")
        return Given(sigma, "as stated")
    if not Path(text).is_dir():
        raise UserError(f"--power {text}: no such study; give the folder of a finished one under runs/, or the noise among seeds, for example 2%")
    study = Study.load(text).where(metric=metric)
    noise = study.noise()
    if not noise.status.ok:
        raise UserError(f"--power {text}: {noise.sentence}; a study with several seeds of a recipe has it, or give a number, for example 2%")
    luck = noise.luck_share if math.isfinite(noise.luck_share) else 1.0
    words = f"of {text}, {noise.interval.low:.2%} to {noise.interval.high:.2%}, from {count(noise.cells, 'cell')}"
    return Given(noise.sigma, words, noise.interval.high, luck, _slope(study))


def _slope(study: Study) -> float:
    """The median over plain runs of -d ln score / d ln training FLOPs by least squares over their checkpoints; NaN if none has two."""
    rows = study.table()
    plain = rows[rows["variant"] == BASELINE] if (rows["variant"] == BASELINE).any() else rows
    slopes = [-np.polyfit(np.log(own["train_flops"].astype(float)), np.log(own["score"].astype(float)), 1)[0]
              for _, own in plain.groupby("run_id") if own["train_flops"].nunique() > 1 and (own["score"] > 0).all()]
    return float(np.median(slopes)) if slopes else math.nan


def comparisons(spec: Spec, runs: Sequence[PlannedRun]) -> list[Comparison]:
    """What the study compares: in each model and length the other recipes with the plain one, or with the first."""
    cells: dict[tuple[str, int], dict[str, list[PlannedRun]]] = {}
    for planned in runs:
        config = planned.config
        cells.setdefault((config.model.name, config.train.images), {}).setdefault(config.recipe(), []).append(planned)
    found = []
    for (model, images), recipes in cells.items():
        variants = {recipe: own[0].config.objective.name for recipe, own in recipes.items()}
        first = next((recipe for recipe, variant in variants.items() if variant == BASELINE), next(iter(recipes)))
        by_seeds: dict[int, list[str]] = {}
        for recipe, own in recipes.items():
            if recipe != first:
                told_apart = variants[recipe] != variants[first]
                by_seeds.setdefault(_seeds(own), []).append(_name(own[0], told_apart))
        baseline = _name(recipes[first][0], told_apart=list(variants.values()).count(variants[first]) == 1)
        costs = _costs(recipes[first][0], runs, spec.metric.name)
        found += [Comparison(model, images, tuple(names), baseline, (seeds, _seeds(recipes[first])), costs) for seeds, names in by_seeds.items()]
    return found


def _seeds(runs: list[PlannedRun]) -> int:
    return len({planned.config.seed for planned in runs})


def _name(planned: PlannedRun, told_apart: bool) -> str:
    """The variant, and where that does not tell a recipe from the other, what the study sets."""
    name = planned.config.objective.name
    return name if told_apart or not planned.settings else f"{name} ({planned.settings})"


def _costs(planned: PlannedRun, runs: Sequence[PlannedRun], metric: str) -> tuple[float, ...]:
    """Of the points of a curve: a run's scored checkpoints; with branches the ends of a trunk's lengths, and none for a branch alone."""
    config = planned.config
    if config.parent:
        return ()
    if config.resources.branch_images:
        family = [one.config for one in runs if one.config.parent and one.config.parent.run == planned.run_id]
        return tuple(sorted(float(training_flops(one, one.train.images)) for one in (*family, config)))
    return tuple(float(training_flops(config, seen)) for seen in (validated_images(config) if metric == LOSS else due_images(config)))


def power_table(spec: Spec, runs: Sequence[PlannedRun], noise: Given) -> tuple[Table | None, list[str]]:
    """A row for each comparison, and lines to read next to it."""
    found = comparisons(spec, runs)
    lines = [f"Noise of {spec.metric.name} among seeds: {noise.sigma:.2%} ({noise.words}). A difference counts as REAL by Welch's 95 % interval on ln score; "
             f"stated is the smallest true one that is found with {POWER:.0%} power."]
    if not found:
        return None, [*lines, "No model and length has two recipes: this study compares nothing at equal images."]
    has_upper, has_cost = math.isfinite(noise.upper), math.isfinite(noise.slope) and noise.slope > 0
    table = Table(title=f"{spec.name}: differences that will be found REAL with {POWER:.0%} power", title_justify="left", box=box.SIMPLE_HEAD,
                  padding=(0, 1, 0, 0))
    for name in ("model", "images", "compared", "seeds", "score", *["score, noisy"] * has_upper, *["multiplier"] * has_cost):
        table.add_column(name, justify="left" if name in ("model", "compared") else "right", no_wrap=name == "model")
    known: dict[tuple, float] = {}
    for one in found:
        cells = [one.model, short_count(one.images), f"{', '.join(one.names)} against {one.baseline}", f"{one.seeds[0]}, {one.seeds[1]}",
                 _percent(smallest(noise.sigma, one.seeds))]
        if has_upper:
            cells.append(_percent(smallest(noise.upper, one.seeds)))
        if has_cost:
            course = Course(np.array(one.costs), noise.sigma, noise.luck_share, noise.slope)
            shape = one.seeds, len(one.costs), tuple(np.round(np.log(np.array(one.costs) / one.costs[0]), 6)) if one.costs else ()
            if shape not in known:
                known[shape] = smallest_multiplier(course, one.seeds)
            cells.append(f"{known[shape]:.3g}" if math.isfinite(known[shape]) else "none")
        table.add_row(*cells)
    more = ", ".join(f"{seeds}: {_percent(smallest(noise.sigma, (seeds, seeds)))}" for seeds in MORE)
    lines.append(f"By seeds of each side: {more}. Fewer than {MIN_SEEDS} give no interval, so nothing is REAL.")
    if has_upper:
        lines.append("Score, noisy: if the noise is at the upper end of its interval.")
    if has_cost:
        lines.append(f"Multiplier: the smallest true cost multiplier, from studies drawn with this noise, {noise.luck_share:.0%} of it common to a run's "
                     f"checkpoints, and a score that falls as cost^-{noise.slope:.2g}. none: too few seeds or checkpoints, or too little range.")
    return table, lines


def _percent(difference: float) -> str:
    """A difference of ln score as the change of the better side's score."""
    return "none" if math.isnan(difference) else f"{math.expm1(-difference):+.1%}"
