"""The rows of a study at one number of images seen, so that a figure against the model's compute compares models trained equally long."""

import pandas as pd

from ditscale.figures.kit import study_table

KEPT = "one evaluation of each trunk or run, all of a model at one length."          # in a fit's card


def has_several(final: pd.DataFrame) -> bool:
    """Whether finished runs of one model ended at different numbers of images: branches of a trunk, a ladder of budgets."""
    return bool(final.groupby("model")["images_seen"].nunique().max() > 1)


def at_one_count(usable: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The finished runs at one number of images seen: their ends, or, if the ends differ, the largest number that all share.

    Where runs of one model have several lengths, the number is the largest at which every model has a score, and a model has there its runs that
    end at it, or else the longest of those that go on, such as a trunk. Without such a number, each model has the runs of its largest length.

    Returns:
        one row per run, and a sentence on the choice ("" if all ended at the same number).

    Raises:
        UserError: no run has finished.
    """
    final = study_table.finished(usable)
    if final["images_seen"].nunique() == 1:
        return final, ""
    own = usable[usable["run_id"].isin(final["run_id"])]
    if has_several(final):
        return _of_models(own, final)
    runs_at = own.groupby("images_seen")["run_id"].nunique()
    shared = runs_at.index[runs_at == final["run_id"].nunique()]
    if shared.empty:
        return final, f" Runs ended at {_ends(final)} images and share no number of images: each is shown at its end."
    at = shared.max()
    return own[own["images_seen"] == at].reset_index(drop=True), (
        f" Runs ended at different numbers of images: each is shown at {at:,} images, the largest number that all share.")


def ends(usable: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The last evaluation of each finished run and "", or, where models have several lengths, those of ``at_one_count``.

    Raises:
        UserError: no run has finished.
    """
    final = study_table.finished(usable)
    return at_one_count(usable) if has_several(final) else (final, "")


def where(rows: pd.DataFrame) -> str:
    """Where the models of ``at_one_count`` are compared, for a sentence: ``at 20,480 images``."""
    counts = rows["images_seen"].unique()
    return f"at {counts[0]:,} images" if len(counts) == 1 else "at the end of each model's longest runs"


def _of_models(own: pd.DataFrame, final: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """One length per model: the rows, and the sentence."""
    models_at = own.groupby("images_seen")["model"].nunique()
    shared = models_at.index[models_at == final["model"].nunique()]
    if shared.empty:
        longest = final[final["images_seen"] == final.groupby("model")["images_seen"].transform("max")].reset_index(drop=True)
        return longest, f" Runs ended at {_ends(final)} images and models share no number of images: each is shown at the end of its longest runs."
    at = shared.max()
    rows = own[own["images_seen"] == at]
    ends, length = rows["final"].astype(bool), rows["run_id"].map(final.groupby("run_id")["images_seen"].max())
    going_on = ~ends.groupby(rows["model"]).transform("any")
    longest = length == length.groupby(rows["model"]).transform("max")          # not also the ladder's or the trunk's shorter runs of the same seed
    words = f"; {study_table.models_words(rows.loc[going_on, 'model'])} on the way to a longer run" if going_on.any() else ""
    return rows[ends | (going_on & longest)].reset_index(drop=True), (
        f" Runs ended at {_ends(final)} images: each model is shown at {at:,} images, the largest number at which every model has a score{words}.")


def _ends(final: pd.DataFrame) -> str:
    return f"{final['images_seen'].min():,} to {final['images_seen'].max():,}"
