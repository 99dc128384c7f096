"""The findings of a study as sentences with numbers.

If there is no law, or its interval contains zero, the sentence says so.
"""

import pandas as pd

from ditscale.figures.kit import one_length, study_table, style
from ditscale.figures.plots.power_law import StudyLaw
from ditscale.scaling.along_runs import USEFUL_ERROR
from ditscale.scaling.correlations import Correlation

DIT_FIGURE_8 = -0.93            # printed in Figure 8 of arXiv 2212.09748: log Gflops with FID-50K, 12 models


def title(final: pd.DataFrame, law: StudyLaw, where: str = "") -> str:
    """One line: the change from the model with the least compute to the one with the most, if the law's interval shows any.

    Args:
        final: the last evaluation of each finished run, or, where models have several lengths, each model's runs at one.
        law: of training compute, or, in the second case, of the model's compute.
        where: in the second case ``one_length.where`` of ``final``.
    """
    small, large = _ends(final)
    metric, at = final["metric"].iloc[0], where and f" {where}"
    if small["model"] == large["model"]:
        return f"{metric} of {large['model']} is {style.score_text(large['score'])}{at}"
    bounds = law.intervals.coefficients.get("alpha")
    if bounds is None or 0.0 in bounds:
        return f"{study_table.count(len(final), 'run')} show no trend of {metric} with {'model ' if where else ''}compute{at}"
    verb = "falls" if large["score"] < small["score"] else "rises"
    factor = large["macs"] / small["macs"]
    times = f"{factor:,.0f} times" if factor >= 10 else f"{factor:.2g} times"
    return (f"{metric} {verb} from {style.score_text(small['score'])} to {style.score_text(large['score'])}{at} "
            f"as model compute grows {times}")


def sentences(final: pd.DataFrame, law: StudyLaw, r: Correlation, floor: float | None, alike: pd.DataFrame | None = None) -> list[str]:
    """The findings, most important first.

    Args:
        final: the last evaluation of each finished run.
        r: of model compute with the score.
        alike: where models have several lengths, the rows of ``r``: each model's runs at one length.
    """
    outliers = [f"{law.fit.outlier_sentence}."] if law.fit.outliers.found else []
    where = "" if alike is None else f" {one_length.where(alike)}"
    found = [*_range(final if alike is None else alike, where), *_law(law), *outliers, _correlation(r, where)]
    missing = law.context["runs_in_study"] - len(final)
    if missing:
        found.append(f"Not included: {study_table.count(missing, 'run')} without a final score.")
    if floor is not None:
        found.append(f"Training images against held-out images score {style.score_text(floor)}. "
                     f"The best model is at {final['score'].min() / floor:.1f} times this floor.")
    if final.groupby("model")["seed"].nunique().max() == 1:
        found.append("One seed per model: the trend uses all models together, and a gap of a few percent between two "
                     "of them is not significant.")
    return found


def _range(final: pd.DataFrame, where: str) -> list[str]:
    small, large = _ends(final)
    if small["model"] == large["model"]:
        return []
    best = final.loc[final["score"].idxmin()]
    text = (f"From {small['model']} ({style.short_count(small['macs'])} multiply-adds per image) to {large['model']} "
            f"({style.short_count(large['macs'])}) the score{where} goes from {style.score_text(small['score'])} to "
            f"{style.score_text(large['score'])}; lower is better.")
    if best["model"] != large["model"]:
        text += f" The best score, {style.score_text(best['score'])}, is from {best['model']}."
    return [text]


def _law(law: StudyLaw) -> list[str]:
    fit, intervals = law.fit, law.intervals
    if not fit.drawable:
        return [f"No power law of training compute: {fit.words}."]
    alpha, form = law.law.alpha, "score ∝ C^−α"
    if not intervals.status.ok:
        return [(f"In {form}, C the training compute, α = {style.signed(alpha)}, "
                 f"without an interval: {intervals.sentence}."), *_hold_out(law)]
    bounds = intervals.coefficients["alpha"]
    numbers = (f"α = {style.signed(alpha)}, 95 % interval {style.signed(bounds.low)} to "
               f"{style.signed(bounds.high)} by profile, {intervals.basis}")
    if 0.0 in bounds:
        return [f"No dependence on training compute is shown: in {form} the interval contains zero ({numbers})."]
    change, *ends = [abs(2.0 ** -value - 1.0) for value in (alpha, bounds.low, bounds.high)]
    verb = "lowers" if alpha > 0 else "raises"
    return [(f"Twice the training compute C {verb} the score by {style.percent(change)} ({style.percent(min(ends))} to "
             f"{style.percent(max(ends))}): {form} with {numbers}."), *_hold_out(law)]


def _hold_out(law: StudyLaw) -> list[str]:
    held = law.fit.hold_out
    if held is None:
        return []
    side = "above" if held.error > 0 else "below"
    error = style.percent(abs(held.error))
    over = f" (root mean square over {held.points} runs: {style.percent(held.rms)})" if held.points > 1 else ""
    verdict = ": do not use it beyond the data" if held.rms > USEFUL_ERROR else ""
    text = f"Fitted without the largest compute, the law predicts a score there {error} {side} the one measured"
    return [f"{text}{over}{verdict}."]


def _correlation(r: Correlation, where: str) -> str:
    if not r.status.ok:
        return f"No correlation of model compute with the score{where}: {r.status.sentence}."
    return (f"Pearson's correlation of the logarithm of model compute with the score is {style.signed(r.value)} over "
            f"{r.n} runs{where} (the twelve models of the DiT paper, in FID: {style.signed(DIT_FIGURE_8, 2)}).")


def _ends(final: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The models with the least and the most compute, each at the median of its seeds."""
    models = final.groupby("model", as_index=False).agg(macs=("macs", "median"), score=("score", "median"))
    models = models.sort_values("macs")
    return models.iloc[0], models.iloc[-1]
