"""What a grid of training lengths costs in three ways: a run for each length, branches of the longest, and averages along it.

Costs are training FLOPs, cumulative from the shortest length on, and relative to the longest run. Five lengths in powers of two with 20 % decay: 1.94,
1.19 and 1.
"""

import numpy as np
import pandas as pd

from ditscale.errors import count
from ditscale.figures.kit import panels, study_table, style

WAYS = {"runs": ("a run for each", style.INK, "s", (0, (4, 1.6))), "branches": ("branches", style.INK, "v", "-"),
        "averages": ("averages", style.MUTED, "o", (0, (1, 1.3)))}


def length_costs(rows: pd.DataFrame) -> pd.DataFrame:
    """For each model and variant, of its trunk with the most lengths: ``images_seen`` and the cumulative FLOPs of each of ``WAYS``, and ``share``
    of the longest run. Empty where no trunk and branch are finished, or where it is not known what a branch itself took.

    Args:
        rows: evaluations as ``ditscale collect`` has them, of one metric.
    """
    needed = ["trunk", "train_flops", "own_train_flops"]
    if not set(needed) <= set(rows.columns):
        return pd.DataFrame()
    ends = rows[rows["final"].astype(bool)].drop_duplicates("run_id")
    ends = ends[ends["trunk"].isin(ends.loc[~(ends["branch_images"] > 0), "run_id"]) & ends[needed].notna().all(axis=1)]
    families = sorted(ends.groupby(["model", "variant", "trunk"], sort=False), key=lambda family: -len(family[1]))
    found = {}
    for (model, variant, _), own in families:
        if len(own) > 1 and (model, variant) not in found:
            found[model, variant] = _of_family(own.sort_values("images_seen"))
    return pd.concat(found.values(), ignore_index=True) if found else pd.DataFrame()


def _of_family(own: pd.DataFrame) -> pd.DataFrame:
    """A row for each length, the trunk's last."""
    whole, decay = own["train_flops"].to_numpy(float), own["own_train_flops"].to_numpy(float)
    shorter = np.concatenate([[0.0], np.cumsum(decay)[:-1]])                   # what the branches before this length took; it is itself a trunk
    ways = {"runs": np.cumsum(whole), "branches": whole + shorter, "averages": whole}
    shares = {f"{way}_share": flops / whole[-1] for way, flops in ways.items()}
    return pd.DataFrame({"model": own["model"], "variant": own["variant"], "images_seen": own["images_seen"].astype(int), **ways, **shares})


def draw_costs(axes, costs: pd.DataFrame) -> None:
    """Draws the first model's cumulative costs; the others' are the same but for what does not scale with images. The legend has the last of each."""
    own = _first(costs)
    for way, (label, color, marker, dashes) in WAYS.items():
        share = own[f"{way}_share"].to_numpy()
        axes.plot(own["images_seen"], share, color=color, marker=marker, linestyle=dashes, markersize=4.5, linewidth=1.4,
                  label=f"{label}: {share[-1]:.3g}")
    panels.images_axis(axes, own["images_seen"], "Lengths up to (images)")
    axes.set(ylabel="FLOPs / longest run")
    axes.set_ylim(0, 1.08 * own["runs_share"].max())
    axes.legend(loc="upper left", borderpad=0.0, borderaxespad=0.2, labelspacing=0.25, handlelength=2.2, handletextpad=0.5)


def cost_words(costs: pd.DataFrame) -> str:
    """The sentence of a caption."""
    own = _first(costs)
    last = own.iloc[-1]
    return (f"Bottom right: training FLOPs of {count(len(own), 'length')} of {study_table.short_name(last['model'])}, {own['images_seen'].iloc[0]:,} to "
            f"{last['images_seen']:,} images, cumulative from the shortest: {last['runs_share']:.2f} of the longest run with a run for each, "
            f"{last['branches_share']:.2f} with branches, 1 as averages along one run.")


def _first(costs: pd.DataFrame) -> pd.DataFrame:
    return next(own for _, own in costs.groupby(["model", "variant"], sort=False))
