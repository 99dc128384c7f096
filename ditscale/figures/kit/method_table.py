"""Methods of one model compared with its plain baseline, or with another of them, at equal training FLOPs and at equal images, by validation loss and
by score.

A method is a variant with all its settings (``studies/table/method.py``). Numbers that were not measured as the baseline's were, for
example the loss of a method that trains on other noise levels, are named and not compared.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import LOSS
from ditscale.figures.kit import study_table, variant_table
from ditscale.objectives import BASELINE
from ditscale.scaling.differences import INCONCLUSIVE, REAL, Difference
from ditscale.scaling.interval import Interval
from ditscale.scaling.multiplier import NOT_REACHED, Multiplier
from ditscale.studies.table.comparable import differing_fields
from ditscale.studies.table.study import Study

COLUMNS = " at equal FLOPs", " at equal images", ": multiplier"                 # of each metric in methods.md


@dataclass(frozen=True)
class Result:
    """One method by one metric. ``standing`` is at equal training FLOPs, ``at_images`` at equal images; they and ``multiplier`` are None where ``why``
    says what prevents it."""

    metric: str
    standing: variant_table.Standing | None = None
    at_images: variant_table.Standing | None = None
    multiplier: Multiplier | None = None
    why: str = ""

    @property
    def change(self) -> float | None:
        """``difference`` as a share of the reference's."""
        difference = self.difference
        return difference.change if difference else None

    @property
    def is_real(self) -> bool:
        difference = self.difference
        return difference is not None and difference.verdict == REAL

    @property
    def difference(self) -> Difference | None:
        """The difference to the reference at equal training FLOPs."""
        return self.standing.difference if self.standing else None

    @property
    def images_difference(self) -> Difference | None:
        """The difference to the reference at equal images."""
        return self.at_images.difference if self.at_images else None


@dataclass(frozen=True)
class Method:
    """A method of a model; ``flops_ratio``: its training FLOPs per image over the reference's; ``seeds`` of its runs."""

    model: str
    method: str
    label: str
    flops_ratio: float
    seeds: int
    results: tuple[Result, ...]


def compare(table: pd.DataFrame, over: str = "") -> list[Method]:
    """Each method of each model that has the reference and another method: best first by the first metric, the loss if there is one.

    Args:
        over: the reference, see ``reference``; "": the plain baseline.

    Raises:
        UserError: no such method, no model has the reference and another method, or the reference was measured in several ways.
    """
    study_table.require_columns(table, ("method",))
    against = reference(list(table["method"].unique()), over)
    methods = table.groupby("model")["method"]
    table = table[methods.transform(lambda own: against in set(own)) & (methods.transform("nunique") > 1)]
    if table.empty:
        raise UserError(f"no model has runs of {_called(against)} and of another method; methods are a variant with its settings, as in column 'method'")
    labels = _labels(list(table["method"].unique()), against)
    metrics = sorted(table["metric"].unique(), key=lambda metric: (metric != LOSS, metric))
    found = [method for _, own in table.groupby("model", sort=False) for method in _compare_model(own, metrics, labels, against)]
    sizes = table.groupby("model")["macs"].median().to_dict() if "macs" in table else {}
    return sorted(found, key=lambda one: (sizes.get(one.model, 0.0), one.model, one.method != against,
                                          *((result.change is None, result.change or 0.0) for result in one.results)))


def reference(methods: list[str], over: str = "") -> str:
    """The method with all settings of ``over``, as in column ``method``, and the fewest others; the plain baseline for "".

    Raises:
        UserError: there is none, or several have as few.
    """
    asked = [part.strip() for part in (over or BASELINE).split(", ")]
    fitting = sorted((method for method in methods if set(asked) <= set(method.split(", ")) and (over or method == BASELINE)), key=_settings)
    if not fitting or (len(fitting) > 1 and _settings(fitting[0]) == _settings(fitting[1])):
        what = "no" if not fitting else "more than one"
        raise UserError(f"{what} method of this study is {_called(over or BASELINE)}: name the one to compare with, as --over 'VARIANT, key=value'; there are "
                        + "; ".join(methods))
    return fitting[0]


def _settings(method: str) -> int:
    return method.count(", ")


def _called(method: str) -> str:
    return "the plain baseline" if method == BASELINE else f"'{method}'"


def _compare_model(rows: pd.DataFrame, metrics: list[str], labels: dict[str, str], against: str) -> list[Method]:
    by_metric = [_results(rows[rows["metric"] == metric], metric, against) for metric in metrics]
    own = rows.groupby("method", sort=False)
    per_image = (own["train_flops"].max() / own["images_seen"].max()).to_dict()
    return [Method(rows["model"].iloc[0], method, labels[method], per_image[method] / per_image[against], runs["run_id"].nunique(),
                   tuple(results.get(method, Result(metric, why="not measured")) for metric, results in zip(metrics, by_metric)))
            for method, runs in own]


def _results(rows: pd.DataFrame, metric: str, against: str) -> dict[str, Result]:
    """The results of all methods that were measured as the reference was; the others with the difference."""
    plain = rows[rows["method"] == against]
    if plain.empty:
        return {}
    study_table.require_comparable(plain, ("passport",))
    alike = rows["passport"] == plain["passport"].iloc[0]
    apart = {method: Result(metric, why=_apart(plain, own)) for method, own in rows[~alike].groupby("method") if not alike[own.index].any()}
    rows = rows[alike].assign(variant=rows.loc[alike, "method"].replace(against, BASELINE))       # what variants are compared with
    if rows["method"].nunique() < 2:
        return apart
    study = Study(Path(), rows)
    compared = {against if row.variant == BASELINE else row.variant: row for row in variant_table.compare(rows)}
    return apart | {method: Result(metric, row.flops, row.images, None if method == against else study.multiplier(method))
                    for method, row in compared.items()}


def _apart(baseline: pd.DataFrame, own: pd.DataFrame) -> str:
    fields = differing_fields(pd.concat([baseline, own]))
    return f"measured differently ({', '.join(fields) or 'passport'})"


def _labels(methods: list[str], against: str) -> dict[str, str]:
    """The shortest names that keep methods apart: a variant's settings where it has several methods or is the baseline, else its name. Of the reference's
    own variant only what differs from the reference, unless that is the baseline."""
    variants = [method.partition(", ")[0] for method in methods]
    found = {}
    for method, variant in zip(methods, variants):
        settings = method.partition(", ")[2]
        if against != BASELINE and variant == against.partition(", ")[0]:
            found[method] = _changes(method, against) if method != against else _own(method, methods)
        else:
            found[method] = settings if variant == BASELINE and settings else variant if variants.count(variant) == 1 else method
    short = {method: re.sub(r" \([^)]*\)", "", label) for method, label in found.items()}        # without the options of a loss or an optimizer
    return {method: short[method] if list(short.values()).count(short[method]) == 1 else label for method, label in found.items()}


def _own(method: str, methods: list[str]) -> str:
    """A variant with those of its settings that most of its other methods do not have."""
    variant, *settings = method.split(", ")
    others = [set(other.split(", ")[1:]) for other in methods if other.partition(", ")[0] == variant and other != method]
    return ", ".join([variant, *(setting for setting in settings if 2 * sum(setting in other for other in others) < len(others))])


def _changes(method: str, against: str) -> str:
    """The settings of a method that the reference does not have; without one, those that it has back at their default."""
    own, theirs = (method.split(", ")[1:] for method in (method, against))
    keys = {setting.partition("=")[0] for setting in own}
    back = [f"{key}: default" for key in (setting.partition("=")[0] for setting in theirs) if key not in keys]
    return ", ".join([setting for setting in own if setting not in theirs] or back)


def markdown(methods: list[Method]) -> str:
    """The comparison as a table in Markdown: a row a method, the reference first; intervals are 95 %."""
    names = [result.metric for result in methods[0].results]
    head = ["model", "method", "seeds", "FLOPs per image", *(f"{name}{what}" for name in names for what in COLUMNS)]
    rows = [[study_table.short_name(one.model), one.label, str(one.seeds), f"{one.flops_ratio:.3g}",
             *(cell for result in one.results for cell in _cells(result))] for one in methods]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)) + "\n"


def as_frame(methods: list[Method]) -> pd.DataFrame:
    """One row per method and metric, for CSV; unknown values are empty."""
    rows = []
    for one in methods:
        for result in one.results:
            place, found, difference, images = result.standing, result.multiplier, result.difference, result.at_images
            same = result.images_difference
            rows.append({"model": one.model, "method": one.method, "label": one.label, "flops_ratio": one.flops_ratio, "metric": result.metric,
                         "seeds": place.seeds if place else 0, "train_flops": place.at if place else None, "score": place.score if place else None,
                         "difference": difference.change if difference else None, **_bounds("difference", difference.interval if difference else None),
                         "verdict": difference.verdict if difference else "", "equal_images": images.at if images else None,
                         "images_difference": same.change if same else None, **_bounds("images_difference", same.interval if same else None),
                         "images_verdict": same.verdict if same else "", "multiplier": found.overall.value if found and found.status.ok else None,
                         **_bounds("multiplier", found.overall.interval if found and found.status.ok else None),
                         "multiplier_verdict": found.overall.verdict if found and found.status.ok else "",
                         "reason": result.why or (found.sentence if found else "")})
    return pd.DataFrame(rows)


def _bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    return {f"{name}_low": interval.low if interval else None, f"{name}_high": interval.high if interval else None}


def _cells(result: Result) -> tuple[str, str, str]:
    return _difference_cell(result, result.standing), _difference_cell(result, result.at_images), _multiplier_cell(result)


def _difference_cell(result: Result, standing: variant_table.Standing | None) -> str:
    if standing is None or standing.score is None:
        return result.why or variant_table.OUTSIDE
    difference = standing.difference
    if difference is None:
        return f"{standing.score:.4g}"
    between = f" ({difference.interval.low:+.1%} to {difference.interval.high:+.1%})" if difference.interval else ""
    return f"{difference.change:+.1%}{between} {difference.verdict}"


def _multiplier_cell(result: Result) -> str:
    found = result.multiplier
    if found is None:
        return ""
    if not found.status.ok:
        return f"{NOT_REACHED.lower()} by {'the reference' if found.behind == found.baseline else 'this'}" if found.behind else INCONCLUSIVE
    bounds = found.overall.interval
    parts = "; ".join(f"{part.side} {part.where()}" for part in found.course.real_parts) if found.in_parts and found.course else ""
    return (f"{found.overall.value:.3g}" + (f" ({bounds.low:.3g} to {bounds.high:.3g})" if bounds else "") + f" {found.overall.verdict}"
            + (f": {parts}" if parts else ""))
