"""Training variants of one model compared at equal images and at equal training FLOPs.

Equal images: the largest count at which every variant of the model was evaluated. Equal FLOPs: the largest amount that every
variant of the model reached; a score there is interpolated between a run's evaluations in logarithms, not extrapolated.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ditscale.errors import UserError
from ditscale.figures.kit import runs, study_table
from ditscale.objectives import BASELINE, VARIANTS
from ditscale.scaling.differences import Difference, compare_scores
from ditscale.scaling.outliers import Outliers, of_points

SHARED = tuple(column for column in study_table.ONE_OF_EACH if column != "variant")
OUTSIDE = "outside its range"


@dataclass(frozen=True)
class Standing:
    """One variant of a model at the common amount. ``score`` is the geometric mean over seeds; None if
    no run of the variant has the amount in its range. ``difference`` is to the baseline, None without one; ``without`` is the same
    without outliers, None if no run counted here is one."""

    at: float
    score: float | None
    seeds: int
    difference: Difference | None
    without: Difference | None = None


@dataclass(frozen=True)
class VariantComparison:
    """One variant of one model. ``flops_ratio`` is its training FLOPs per image over the baseline's, NaN without one.

    ``outliers`` are runs of the variant or the baseline far from their siblings, anywhere along their curves.
    """

    model: str
    variant: str
    images_seen: int
    train_flops: float
    flops_ratio: float
    images: Standing
    flops: Standing
    outliers: Outliers = Outliers()


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The scored rows of each model with two variants or more, and a sentence on rows without a score.

    Raises:
        UserError: the scores differ in more than the variant, or no model has two variants.
    """
    usable, left_out = study_table.scored(table, SHARED)
    kept = usable[usable.groupby("model")["variant"].transform("nunique") > 1].reset_index(drop=True)
    if kept.empty:
        raise UserError(f"no model has two variants; there are: {', '.join(variants_in_order(usable))}")
    return kept, left_out


def compare(table: pd.DataFrame) -> list[VariantComparison]:
    """Each variant of each model with two or more, sorted by model, then variant, the baseline first.

    Raises:
        UserError: as ``comparable``.
    """
    kept, _ = comparable(table)
    names = [f"{study_table.short_name(model)} {variant}" for model, variant in zip(kept["model"], kept["variant"])]
    cells = [f"{name} at {images:,} images" for name, images in zip(names, kept["images_seen"])]
    far = of_points(kept["score"], cells, kept["run_id"], lambda i: f"in {cells[i]}")
    return [row for _, rows in kept.groupby("model", sort=False) for row in _compare_model(rows, far)]


def variants_in_order(table: pd.DataFrame) -> list[str]:
    """The variants of a table, baseline first, unknown ones last."""
    found = table["variant"].unique()
    return [*(v for v in VARIANTS if v in found), *sorted(set(found) - set(VARIANTS))]


def main_variant(table: pd.DataFrame) -> str:
    """The variant used for a study's scaling laws: the baseline, or else the one with the most runs."""
    runs = table.groupby("variant")["run_id"].nunique()
    return BASELINE if BASELINE in runs else runs.idxmax()


def as_frame(comparisons: list[VariantComparison]) -> pd.DataFrame:
    """One row per comparison, for CSV; unknown values are empty."""
    def standing(name: str, place: Standing) -> dict:
        difference = place.difference
        interval = difference.interval if difference else None
        return {f"{name}_at": place.at, f"{name}_score": place.score, f"{name}_seeds": place.seeds,
                f"{name}_difference": difference.change if difference else None,
                f"{name}_low": interval.low if interval else None, f"{name}_high": interval.high if interval else None,
                f"{name}_verdict": difference.verdict if difference else "", f"{name}_reason": reason(place),
                f"{name}_difference_without_outliers": place.without.change if place.without else None,
                f"{name}_verdict_without_outliers": place.without.verdict if place.without else ""}

    return pd.DataFrame([{
        "model": row.model, "variant": row.variant, "images_seen": row.images_seen, "train_flops": row.train_flops,
        "flops_ratio": row.flops_ratio, **standing("equal_images", row.images), **standing("equal_flops", row.flops),
        "outliers": " ".join(row.outliers.runs),
    } for row in comparisons])


def reason(place: Standing) -> str:
    """The basis of the verdict, or why there is none."""
    if place.score is None:
        return OUTSIDE
    return place.difference.reason if place.difference else ""


def outlier_words(rows: list[VariantComparison]) -> str:
    """Each outlier once, and each comparison without them, after a space; "" if there are none."""
    far = {one.run: one for row in rows for one in row.outliers.found}
    if not far:
        return ""
    named = replace(next(row.outliers for row in rows if row.outliers.found), found=tuple(far.values()))
    parts = [f"{study_table.short_name(row.model)} {row.variant} at {words}: {without.change:+.1%}, {without.verdict} ({without.reason})"
            for row in rows for words, without in (("equal images", row.images.without), ("equal training FLOPs", row.flops.without))
            if without]
    return f" {named.sentence}. Without {named.them}: {'; '.join(parts) if parts else 'nothing is left to compare'}."


def score_at(amounts, scores, at: float) -> float:
    """A run's score at this many training FLOPs or images, interpolated linearly in logarithms between its evaluations; NaN outside them."""
    order = np.argsort(amounts)
    x, y = np.log(np.asarray(amounts, float)[order]), np.log(np.asarray(scores, float)[order])
    return float(np.exp(np.interp(np.log(at), x, y, left=np.nan, right=np.nan)))


def _compare_model(rows: pd.DataFrame, far: Outliers) -> list[VariantComparison]:
    variants = {variant: rows[rows["variant"] == variant] for variant in variants_in_order(rows)}
    counts = set.intersection(*(set(own["images_seen"]) for own in variants.values()))
    images = max(counts) if counts else min(own["images_seen"].max() for own in variants.values())
    flops = min(own["train_flops"].max() for own in variants.values())
    at_images, at_flops = ({v: _scores_at(own, amount, at) for v, own in variants.items()} for amount, at in (("images_seen", images), ("train_flops", flops)))
    cost = {v: (own["train_flops"] / own["images_seen"]).iloc[-1] for v, own in variants.items()}
    runs_of = {v: set(own["run_id"]) for v, own in variants.items()}
    own_far = {v: far.among(runs | runs_of.get(BASELINE, set())) for v, runs in runs_of.items()}
    return [VariantComparison(rows["model"].iloc[0], variant, int(own["images_seen"].max()), float(own["train_flops"].max()),
                       cost[variant] / cost[BASELINE] if BASELINE in cost else np.nan,
                       _standing(variant, images, at_images, own_far[variant]), _standing(variant, flops, at_flops, own_far[variant]),
                       own_far[variant])
            for variant, own in variants.items()]


def _scores_at(own: pd.DataFrame, amount: str, at: float) -> pd.Series:
    """The scores, by run id, of a variant's runs whose evaluations span this amount of images or compute."""
    found = {name[0]: score_at(amounts, scores, at) for name, amounts, scores in runs.per_run(own, "run_id", amount, "score")}
    scores = pd.Series(found, dtype=float).sort_index()
    return scores[np.isfinite(scores)]


def _standing(variant: str, at: float, scores: dict[str, pd.Series], far: Outliers) -> Standing:
    own, baseline = scores[variant], scores.get(BASELINE, pd.Series(dtype=float))
    if not len(own):
        return Standing(at, None, 0, None)
    compared = variant != BASELINE and len(baseline)
    left = [side[~side.index.isin(far.runs)] for side in (own, baseline)]
    changed = compared and len(left[0]) + len(left[1]) < len(own) + len(baseline) and len(left[0]) and len(left[1])
    return Standing(at, float(np.exp(np.log(own).mean())), len(own), compare_scores(own, baseline) if compared else None,
                    compare_scores(*left) if changed else None)
