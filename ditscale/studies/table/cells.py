"""The cells of a frontier: one model, variant and number of images seen, over its seeds, with what training took and what an image takes to make."""

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd

from ditscale.scaling.frontier import non_dominated
from ditscale.studies.table.comparable import trunks
from ditscale.studies.table.sampling_cost import require_flops_per_image

BRANCH, TRUNK = "branch", "trunk"               # of two cells with the same images: at the end of a branch, and on the way along its trunk


def names(rows: pd.DataFrame) -> pd.Series:
    """The cell of each row: ``XL/2 masked 1,280,000``. Where there are several recipes, those of branches and of their trunks have ``branch`` or
    ``trunk`` after it, and what is still alike the recipe's hash."""
    own = rows["model"].str.removeprefix("DiT-") + " " + rows["variant"] + " " + rows["images_seen"].map("{:,}".format)
    for more in (_kind(rows), " " + rows["recipe"]):
        several = rows.groupby(own)["recipe"].transform("nunique") > 1
        own = own.where(~several, own + more)
    return own


def _kind(rows: pd.DataFrame) -> pd.Series:
    """What a row's run is in a study with branches, with a space before it; "" for any other run."""
    found = pd.Series("", rows.index)
    if "branch_images" not in rows:
        return found
    is_branch = rows["branch_images"] > 0
    return found.mask(is_branch, f" {BRANCH}").mask(rows["run_id"].isin(rows.loc[is_branch, "trunk"]), f" {TRUNK}")


def models_of_only(rows: pd.DataFrame, runs: Iterable[str]) -> list[str]:
    """The models that have no run but these (``comparable.trunks``)."""
    among = trunks(rows).isin(set(runs)).groupby(rows["model"], sort=False).all()
    return list(among.index[among])


def cells(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per cell: cell, model, variant, recipe, and train_flops, flops_per_image and score as geometric means over its seeds; cheapest first.

    Args:
        rows: one per run and checkpoint, with positive scores and training FLOPs.

    Raises:
        UserError: what an image costs is unknown for a run.
    """
    values = {"train_flops": rows["train_flops"].astype(float), "flops_per_image": require_flops_per_image(rows), "score": rows["score"].astype(float)}
    logs = pd.DataFrame({name: np.log(column) for name, column in values.items()}).assign(cell=names(rows))
    grouped = logs.groupby("cell", sort=False)
    means = np.exp(grouped.mean()).where(grouped.nunique() > 1, np.exp(grouped.first()))      # equal values stay exactly equal: ties stay ties
    what = rows.assign(cell=logs["cell"]).drop_duplicates("cell").set_index("cell")[["model", "variant", "recipe"]]
    return what.join(means).reset_index().sort_values(["train_flops", "score"], ignore_index=True)


def on_frontier(found: pd.DataFrame, images: float = 0.0, lower_is_better: bool = True) -> np.ndarray:
    """Which cells no other beats in score and in the FLOPs of training and making this many images, ``(n,)``."""
    level = np.log(found["score"].to_numpy())
    return non_dominated((found["train_flops"] + images * found["flops_per_image"]).to_numpy(), level if lower_is_better else -level)


def pairs_of_sizes(rows: pd.DataFrame, lower_is_better: bool = True) -> list[tuple[tuple[str, pd.DataFrame, float], tuple[str, pd.DataFrame, float]]]:
    """Each recipe with a cell on the frontier of training FLOPs, with those of the next larger cost per image, cheaper image first.

    Returns:
        pairs of (name, rows, FLOPs per image); several variants of one model give several pairs.
    """
    found = cells(rows)
    kept = found[on_frontier(found, lower_is_better=lower_is_better)]["recipe"].unique()
    per_image = require_flops_per_image(rows).groupby(rows["recipe"]).median()              # where guidance is searched, checkpoints may differ
    several = rows.groupby(["model", "variant"])["recipe"].transform("nunique") > 1
    words = rows["model"].str.removeprefix("DiT-") + " " + rows["variant"]
    named = words.where(~several, words + " " + rows["recipe"])
    sizes: dict[float, list[tuple[str, pd.DataFrame, float]]] = {}
    for recipe in sorted(kept, key=lambda one: per_image[one]):
        own = rows["recipe"] == recipe
        cost = float(per_image[recipe])
        sizes.setdefault(round(float(np.log(cost)), 9), []).append((named[own].iloc[0], rows[own], cost))
    steps = list(sizes.values())
    return [pair for small, large in zip(steps, steps[1:]) for pair in itertools.product(small, large)]
