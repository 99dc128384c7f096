"""Training variants of one model side by side, at equal images and at equal training FLOPs: the numbers.

Equal images: the largest count at which every variant of the model was evaluated. Equal FLOPs: the most that every
variant of the model reached; a score there is interpolated between a run's evaluations in logarithms, not extrapolated.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ditscale.errors import UserError
from ditscale.figures import study_table
from ditscale.scaling.differences import Difference, compare_scores

BASELINE = "baseline"
ORDER = (BASELINE, "masked", "mdt", "discriminative")
SHARED = tuple(column for column in study_table.ONE_OF_EACH if column != "variant")
OUTSIDE = "outside its range"


@dataclass(frozen=True)
class Standing:
    """Where one variant of a model stands at the common amount. ``score`` is the geometric mean over seeds; None where
    no run of the variant has the amount in its range. ``difference`` is to the baseline, None where there is none."""

    at: float
    score: float | None
    seeds: int
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """One variant of one model. ``flops_ratio`` is its training FLOPs an image over the baseline's, NaN without one."""

    model: str
    variant: str
    images_seen: int
    train_flops: float
    flops_ratio: float
    images: Standing
    flops: Standing


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The scored rows of each model that has two variants or more, and a sentence on rows without a score.

    Raises:
        UserError: the scores differ in more than the variant, or no model has two variants.
    """
    usable, left_out = study_table.scored(table, SHARED)
    kept = usable[usable.groupby("model")["variant"].transform("nunique") > 1].reset_index(drop=True)
    if kept.empty:
        raise UserError(f"no model has two variants; there are: {', '.join(variants_in_order(usable))}")
    return kept, left_out


def compare(table: pd.DataFrame) -> list[Comparison]:
    """Each variant of each model that has two or more, by model and then variant, the baseline first.

    Raises:
        UserError: as ``comparable``.
    """
    kept, _ = comparable(table)
    return [row for _, rows in kept.groupby("model", sort=False) for row in _compare_model(rows)]


def variants_in_order(table: pd.DataFrame) -> list[str]:
    """The variants of a table, baseline first, an unknown one last."""
    found = table["variant"].unique()
    return [*(v for v in ORDER if v in found), *sorted(set(found) - set(ORDER))]


def main_variant(table: pd.DataFrame) -> str:
    """The variant whose scaling a study shows: the baseline, or else the one of most runs."""
    runs = table.groupby("variant")["run_id"].nunique()
    return BASELINE if BASELINE in runs else runs.idxmax()


def as_frame(comparisons: list[Comparison]) -> pd.DataFrame:
    """One row a comparison, for CSV; what is not known is empty."""
    def standing(name: str, place: Standing) -> dict:
        difference = place.difference
        interval = difference.interval if difference else None
        return {f"{name}_at": place.at, f"{name}_score": place.score, f"{name}_seeds": place.seeds,
                f"{name}_difference": difference.change if difference else None,
                f"{name}_low": interval.low if interval else None, f"{name}_high": interval.high if interval else None,
                f"{name}_verdict": difference.verdict if difference else "", f"{name}_reason": reason(place)}

    return pd.DataFrame([{
        "model": row.model, "variant": row.variant, "images_seen": row.images_seen, "train_flops": row.train_flops,
        "flops_ratio": row.flops_ratio, **standing("equal_images", row.images), **standing("equal_flops", row.flops),
    } for row in comparisons])


def reason(place: Standing) -> str:
    """What the verdict rests on, or why there is none."""
    if place.score is None:
        return OUTSIDE
    return place.difference.reason if place.difference else ""


def score_at(flops, scores, at: float) -> float:
    """A run's score at so many training FLOPs, linear in logarithms between its evaluations; NaN outside them."""
    order = np.argsort(flops)
    x, y = np.log(np.asarray(flops, float)[order]), np.log(np.asarray(scores, float)[order])
    return float(np.exp(np.interp(np.log(at), x, y, left=np.nan, right=np.nan)))


def _compare_model(rows: pd.DataFrame) -> list[Comparison]:
    variants = {variant: rows[rows["variant"] == variant] for variant in variants_in_order(rows)}
    counts = set.intersection(*(set(own["images_seen"]) for own in variants.values()))
    images = max(counts) if counts else np.nan
    flops = min(own["train_flops"].max() for own in variants.values())
    at_images = {v: own.loc[own["images_seen"] == images, "score"].to_numpy() for v, own in variants.items()}
    at_flops = {v: _scores_at(own, flops) for v, own in variants.items()}
    cost = {v: (own["train_flops"] / own["images_seen"]).iloc[-1] for v, own in variants.items()}
    return [Comparison(rows["model"].iloc[0], variant, int(own["images_seen"].max()), float(own["train_flops"].max()),
                       cost[variant] / cost[BASELINE] if BASELINE in cost else np.nan,
                       _standing(variant, images, at_images), _standing(variant, flops, at_flops))
            for variant, own in variants.items()]


def _scores_at(own: pd.DataFrame, flops: float) -> np.ndarray:
    """The score of each run of a variant that has this compute within its evaluations."""
    scores = np.array([score_at(run["train_flops"], run["score"], flops) for _, run in own.groupby("run_id")])
    return scores[np.isfinite(scores)]


def _standing(variant: str, at: float, scores: dict[str, np.ndarray]) -> Standing:
    own, baseline = scores[variant], scores.get(BASELINE, ())
    if not len(own):
        return Standing(at, None, 0, None)
    difference = compare_scores(own, baseline) if variant != BASELINE and len(baseline) else None
    return Standing(at, float(np.exp(np.log(own).mean())), len(own), difference)
