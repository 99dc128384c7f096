"""The caption of Figure 9: the training compute at which a smaller patch overtakes a larger one for the same model size."""

import itertools

import numpy as np
import pandas as pd

from ditscale.figures.kit import study_table, style
from ditscale.scaling.crossing import Crossing, Order, overtaking


def by_patch(usable: pd.DataFrame) -> list[tuple[str, str, Crossing]]:
    """(larger patch, smaller patch, crossing) of each two neighboring patch sizes of a model size, smallest size first.

    A model's curve is the geometric mean over its runs, at the costs at which most of its runs were scored.
    """
    found = []
    for size in study_table.sizes_in_order(usable):
        models = usable[usable["size"] == size].sort_values("patch_size", ascending=False)["model"].unique()
        for coarse, fine in itertools.pairwise(models):
            found.append((coarse, fine, overtaking(*_curve(usable, coarse), *_curve(usable, fine))))
    return found


def sentences(usable: pd.DataFrame) -> str:
    """A sentence on each overtaking with its bracket, then on the pairs that share no cost, for which the data decide nothing."""
    pairs = by_patch(usable)
    passed = [_sentence(coarse, fine, crossing) for coarse, fine, crossing in pairs if crossing.order is Order.OVERTAKES]
    apart = [f"{study_table.short_name(fine)} and {study_table.short_name(coarse)}" for coarse, fine, crossing in pairs
             if crossing.order is Order.NO_SHARED_COST]
    text = f"In training compute {'; '.join(passed)}; straight lines between checkpoints, in logarithms." if passed else ""
    if len(apart) == len(pairs) > 1:
        text = "These data do not show where one patch size overtakes another: no two patch sizes of one model size share any training compute."
    elif apart:
        text += (f"{' ' if text else ''}These data do not show where one passes the other for {', '.join(apart)}: their checkpoints share "
                 "no compute.")
    return text


def _sentence(coarse: str, fine: str, crossing: Crossing) -> str:
    again = f", the last of {crossing.crossings} crossings" if crossing.crossings > 1 else ""
    return (f"{study_table.short_name(fine)} passes {study_table.short_name(coarse)} at {style.power_of_ten(crossing.cost)} FLOPs (between "
            f"checkpoints at {style.power_of_ten(crossing.bracket[0])} and {style.power_of_ten(crossing.bracket[1])}{again})")


def _curve(usable: pd.DataFrame, model: str) -> tuple:
    """Costs, and the geometric mean of the model's scores there, over the same number of runs at each cost."""
    rows = usable[usable["model"] == model].assign(log=lambda rows: np.log(rows["score"]))
    at = rows.groupby("train_flops").agg(log=("log", "mean"), runs=("run_id", "nunique"))
    at = at[at["runs"] == at["runs"].max()]
    return at.index.to_numpy(float), np.exp(at["log"].to_numpy(float))
