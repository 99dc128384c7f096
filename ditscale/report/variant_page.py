"""The variants on the report page: their differences in sentences and tables."""

import pandas as pd

from ditscale.figures.kit import study_table, style, variant_table
from ditscale.figures.kit.variant_table import Standing, VariantComparison
from ditscale.objectives import BASELINE
from ditscale.report import page

PLACES = (("images", "equal images", "Images"), ("flops", "equal training FLOPs", "Training FLOPs"))


def sentences(comparisons: list[VariantComparison]) -> list[str]:
    """One finding per variant: its cost, its score compared with the baseline's, and the verdict."""
    variants = dict.fromkeys(row.variant for row in comparisons if row.variant != BASELINE)
    return [_sentence(variant, [row for row in comparisons if row.variant == variant]) for variant in variants]


def tables(comparisons: list[VariantComparison]) -> list[str]:
    """One table at equal images, one at equal training FLOPs, and the basis of the verdicts."""
    parts = []
    for name, words, column in PLACES:
        places = [getattr(row, name) for row in comparisons]
        columns = {
            "Model": [row.model for row in comparisons],
            "Variant": [row.variant for row in comparisons],
            "FLOPs per image": [f"{row.flops_ratio:.2f}" if row.flops_ratio > 0 else "none" for row in comparisons],
            column: [_amount(place.at) for place in places],
            "Score": [style.score_text(place.score) if place.score else variant_table.OUTSIDE for place in places],
            "Difference": [f"{_points(p.difference.change)} %" if p.difference else "" for p in places],
            "95 % interval": [_interval(place) for place in places],
            "Seeds": [str(place.seeds) for place in places],
            "Verdict": [place.difference.verdict if place.difference else "" for place in places],
        }
        if not any(columns["95 % interval"]):
            del columns["95 % interval"]
        if name == "flops":                             # already in the table at equal images
            del columns["FLOPs per image"]
        explained = "; FLOPs per image are multiples of the baseline's" if "FLOPs per image" in columns else ""
        parts += [page.paragraph(f"At {words}{explained}. Differences are to the baseline; lower is better."),
                  page.table(list(columns), zip(*columns.values()), numbers=set(range(2, len(columns) - 1)))]
    verdicts = {f"{place.difference.verdict}: {place.difference.reason}" for row in comparisons
                for place in (row.images, row.flops) if place.difference}
    return [*parts, page.paragraph(f"{'; '.join(sorted(verdicts))}.")] if verdicts else parts


def terms(frame: pd.DataFrame) -> list[str]:
    """The loss of each variant, first and last logged; empty if no run logged anything."""
    if frame.empty:
        return []
    columns = {"Model": frame["model"], "Variant": frame["variant"], "Seed": frame["seed"],
               "Term": frame["term"] + frame["watched"].map({True: " (watched)", False: ""}),
               "First logged": frame["first"].map(_number), "Last logged": frame["last"].map(_number)}
    if frame["seed"].nunique() == 1:
        del columns["Seed"]
    sentences = ["The loss of each variant: its loss terms, weights included, and other logged values, "
                 "which have no gradient. Terms of different variants have different scales."]
    if frame["term"].str.contains("entropy").any():
        sentences.append("Entropies are fractions of the maximum. A teacher_entropy near 1 means that targets are "
                         "uniform; a prototype_usage near 0 means that all fall on one prototype. Both are a collapse.")
    return [page.paragraph(" ".join(sentences)),
            page.table(list(columns), zip(*columns.values()), numbers={len(columns) - 2, len(columns) - 1})]


def _sentence(variant: str, rows: list[VariantComparison]) -> str:
    ratios = [row.flops_ratio for row in rows if row.flops_ratio > 0]
    if not ratios:
        return f"Variant {variant} has no baseline of the same model to compare with."
    low, high = (f"{end(ratios):.3g}" for end in (min, max))
    cost = low if low == high else f"{low} to {high}"
    changes = [f"at {words} the score {_listed([(row.model, getattr(row, name)) for row in rows if row.flops_ratio > 0])}"
               for name, words, _ in PLACES]
    named = f"Variant {variant} against baseline, {cost} times the training FLOPs per image"
    return f"{named}: {'; '.join(changes)}. {_worth(rows)}{variant_table.outlier_words(rows)}"


def _listed(places: list[tuple[str, Standing]]) -> str:
    """``is 8.6 % higher on pico/2 and outside its range on nano/2``."""
    parts = [f"{_change(place)} on {study_table.short_name(model)}" for model, place in places]
    return "is " + (" and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}")


def _change(place: Standing) -> str:
    if place.difference is None:
        return variant_table.reason(place) or "without a baseline in range"
    change = place.difference.change
    return f"{style.percent(abs(change))} {'higher' if change > 0 else 'lower'}"


def _worth(rows: list[VariantComparison]) -> str:
    """The verdict if all agree; otherwise each verdict with its model and amount."""
    places_by_verdict: dict[str, list[str]] = {}
    for row in rows:
        for name, words, _ in PLACES:
            difference = getattr(row, name).difference
            if difference:
                verdict = f"{difference.verdict} ({difference.reason})"
                places_by_verdict.setdefault(verdict, []).append(f"{study_table.short_name(row.model)} at {words}")
    if len(places_by_verdict) == 1:
        return f"{next(iter(places_by_verdict))}."
    return "; ".join(f"{verdict}: {', '.join(places)}" for verdict, places in places_by_verdict.items()) + "." if places_by_verdict else ""


def _interval(place: Standing) -> str:
    interval = place.difference.interval if place.difference else None
    return f"{_points(interval.low)} to {_points(interval.high)} %" if interval else ""


def _points(change: float) -> str:
    """A change in percent with its sign."""
    return f"{100 * change:+.1f}".replace("-", "−")


def _amount(at: float) -> str:
    """Images as a plain number, FLOPs as a power of ten."""
    if at != at:
        return "none shared"
    return f"{at:,.0f}" if at < 1e9 else style.power_of_ten(at)


def _number(value: float) -> str:
    return f"{value:#.3g}".rstrip(".").replace("-", "−")
