"""``plan --power``: the smallest differences that a planned study will probably be able to tell, given the noise of an earlier one."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from ditscale.errors import UserError, count
from ditscale.objectives import BASELINE
from ditscale.scaling.differences import MIN_SEEDS
from ditscale.scaling.power import POWER, Course, smallest, smallest_multiplier
from ditscale.studies.plan.comparisons import comparisons
from ditscale.studies.plan.show import short_count
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun
from ditscale.studies.table.study import Study

NUMBER = re.compile(r"([+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?))\s*(%?)", re.IGNORECASE)
LEAST = 1e-4                                                                   # a smaller stated noise is a slip
MORE = (3, 5, 8, 12)                                                           # seeds each, for comparison
NAMED = 4                                                                      # of the recipes that are compared with nothing


@dataclass(frozen=True)
class Given:
    """What is known of the scores: ``sigma`` of ln score among seeds, and from a study the upper end of its interval and how runs improve."""

    sigma: float
    words: str
    upper: float = math.nan
    luck_share: float = 1.0
    slope: float = math.nan                                                    # -d ln score / d ln training FLOPs


def given(text: str, metric: str) -> Given:
    """The noise: a number (``0.02``, ``2%``), or the folder of a study that has scores of ``metric``.

    Raises:
        UserError: it is neither, or the study has no repeated runs or no scores of the metric.
    """
    if number := NUMBER.fullmatch(text):
        sigma = float(number[1]) / (100 if number[2] else 1)
        if not LEAST <= sigma < 1:
            raise UserError(f"--power {text}: the noise of a score among seeds must be {LEAST:g} or more and below 1; 0.02 or 2% is usual for FID")
        return Given(sigma, "as stated")
    if not Path(text).is_dir():
        what = "is a file" if Path(text).exists() else "no such study"
        raise UserError(f"--power {text}: {what}; give the folder of a finished study under runs/, or the noise among seeds, for example 2%")
    study = Study.load(text)
    there = sorted(study.rows["metric"].dropna().unique())
    if metric not in there:
        raise UserError(f"--power {text}: it has no {metric}, the metric of the planned study, but {', '.join(there) or 'no score yet'}; give a study that "
                        f"has it, set metric.name in the spec{f' to {there[0]}' if there else ''}, or give the noise, for example 2%")
    study = study.where(metric=metric)
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


def power_table(spec: Spec, runs: Sequence[PlannedRun], noise: Given) -> tuple[Table | None, list[str]]:
    """A row for each comparison, and lines to read next to it."""
    found, alone = comparisons(runs, spec.metric.name)
    lines = [f"Noise of {spec.metric.name} among seeds: {noise.sigma:.2%} ({noise.words}). A difference counts as REAL by Welch's 95 % interval on ln score; "
             f"stated is the smallest true one that is found with {POWER:.0%} power."]
    if not found:
        return None, ["No model has two recipes of equal images or equal training FLOPs: this study compares nothing."]
    if alone:
        more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
        lines.append(f"Compared with nothing, as no other recipe of the model has equal images or training FLOPs: {', '.join(alone[:NAMED])}{more}.")
    by_images, by_flops = any(one.images for one in found), [one for one in found if not one.images]
    has_upper, has_cost = math.isfinite(noise.upper), math.isfinite(noise.slope) and noise.slope > 0
    table = Table(title=f"{spec.name}: differences that will be found REAL with {POWER:.0%} power", title_justify="left", box=box.SIMPLE_HEAD,
                  padding=(0, 1, 0, 0))
    equal = [*["equal images"] * by_images, *["equal FLOPs"] * bool(by_flops)]
    for name in ("model", *equal, "compared", "seeds", "score", *["score, noisy"] * has_upper, *["multiplier"] * has_cost):
        table.add_column(name, justify="left" if name in ("model", "compared") else "right", no_wrap=name == "model")
    known: dict[tuple, float] = {}
    for one in found:
        equal = [short_count(one.images) if one.images else ""] * by_images + ["" if one.images else f"{one.flops:.3g}"] * bool(by_flops)
        cells = [one.model, *equal, f"{', '.join(one.names)} against {one.baseline}", f"{one.seeds[0]}, {one.seeds[1]}",
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
    if by_flops:
        lines.append(f"Equal FLOPs: of training, to within {100 * max(one.spread for one in by_flops):.2g}%; images differ.")
    if not has_upper and not has_cost:
        lines.append("No column `score, noisy` and no multiplier: both need the noise of a finished study, --power runs/STUDY.")
    if has_upper:
        lines.append("Score, noisy: if the noise is at the upper end of its interval.")
    if has_cost:
        lines.append(f"Multiplier: the smallest true cost multiplier, from studies drawn with this noise, {noise.luck_share:.0%} of it common to a run's "
                     f"checkpoints, and a score that falls as cost^-{noise.slope:.2g}. none: too few seeds or checkpoints, or too little range.")
    return table, lines


def _percent(difference: float) -> str:
    """A difference of ln score as the change of the better side's score."""
    change = math.expm1(-difference)
    return "none" if math.isnan(difference) else f"{change:+.1%}" if abs(change) >= 1e-3 else f"{change:+.2%}"
