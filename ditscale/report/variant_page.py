"""The variants on the report page: their differences, in sentences and tables."""

import pandas as pd

from ditscale.figures.kit import study_table, style, variant_table
from ditscale.figures.kit.variant_table import Standing, VariantComparison
from ditscale.objectives import BASELINE
from ditscale.report import page

PLACES = (("images", "equal images", "Images"), ("flops", "equal training FLOPs", "Training FLOPs"))


def sentences(comparisons: list[VariantComparison]) -> list[str]:
    """One finding a variant: its cost, its score beside the baseline's, and what that is worth."""
    variants = dict.fromkeys(row.variant for row in comparisons if row.variant != BASELINE)
    return [_sentence(variant, [row for row in comparisons if row.variant == variant]) for variant in variants]


def tables(comparisons: list[VariantComparison]) -> list[str]:
    """One table at equal images, one at equal training FLOPs, and what the verdicts rest on."""
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
        if name == "flops":                             # said at equal images; here it would push the verdict away
            del columns["FLOPs per image"]
        explained = "; FLOPs per image are multiples of the baseline's" if "FLOPs per image" in columns else ""
        parts += [page.paragraph(f"At {words}{explained}. Differences are to the baseline; lower is better."),
                  page.table(list(columns), zip(*columns.values()), numbers=set(range(2, len(columns) - 1)))]
    verdicts = {f"{place.difference.verdict}: {place.difference.reason}" for row in comparisons
                for place in (row.images, row.flops) if place.difference}
    return [*parts, page.paragraph(f"{'; '.join(sorted(verdicts))}.")] if verdicts else parts


def terms(frame: pd.DataFrame) -> list[str]:
    """The loss of each variant, first and last logged; nothing where no run logged anything."""
    if frame.empty:
        return []
    columns = {"Model": frame["model"], "Variant": frame["variant"], "Seed": frame["seed"],
               "Term": frame["term"] + frame["watched"].map({True: " (watched)", False: ""}),
               "First logged": frame["first"].map(_number), "Last logged": frame["last"].map(_number)}
    if frame["seed"].nunique() == 1:
        del columns["Seed"]
    told = ["The loss of each variant: its loss terms, weights included, and other watched values, "
            "without a gradient. Terms of different variants share no scale."]
    if frame["term"].str.contains("entropy").any():
        told.append("Entropies are shares of the largest possible. Near 1, teacher_entropy says that targets are "
                    "uniform; near 0, prototype_usage says that all fall on one prototype: either is a collapse.")
    return [page.paragraph(" ".join(told)),
            page.table(list(columns), zip(*columns.values()), numbers={len(columns) - 2, len(columns) - 1})]


def _sentence(variant: str, rows: list[VariantComparison]) -> str:
    ratios = [row.flops_ratio for row in rows if row.flops_ratio > 0]
    if not ratios:
        return f"Variant {variant} has no baseline of the same model to compare with."
    low, high = (f"{end(ratios):.3g}" for end in (min, max))
    cost = low if low == high else f"{low} to {high}"
    told = [f"at {words} the score {_listed([(row.model, getattr(row, name)) for row in rows if row.flops_ratio > 0])}"
            for name, words, _ in PLACES]
    named = f"Variant {variant} against baseline, {cost} times the training FLOPs per image"
    return f"{named}: {'; '.join(told)}. {_worth(rows)}{variant_table.outlier_words(rows)}"


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
    """The verdict where it is one for all; where they differ, each with its place."""
    told: dict[str, list[str]] = {}
    for row in rows:
        for name, words, _ in PLACES:
            difference = getattr(row, name).difference
            if difference:
                verdict = f"{difference.verdict} ({difference.reason})"
                told.setdefault(verdict, []).append(f"{study_table.short_name(row.model)} at {words}")
    if len(told) == 1:
        return f"{next(iter(told))}."
    return "; ".join(f"{verdict}: {', '.join(places)}" for verdict, places in told.items()) + "." if told else ""


def _interval(place: Standing) -> str:
    interval = place.difference.interval if place.difference else None
    return f"{_points(interval.low)} to {_points(interval.high)} %" if interval else ""


def _points(change: float) -> str:
    """A change in percent with its sign."""
    return f"{100 * change:+.1f}".replace("-", "−")


def _amount(at: float) -> str:
    """Images as they are, FLOPs as a power of ten."""
    if at != at:
        return "none shared"
    return f"{at:,.0f}" if at < 1e9 else style.power_of_ten(at)


def _number(value: float) -> str:
    return f"{value:#.3g}".rstrip(".").replace("-", "−")
