"""Branches against their trunk: the score at the end of each branch's decay, and that of the trunk's average at the same images.

A trunk's rate is constant there, so the pair says what the decay buys. Both have the same images, noise and weights up to the branch
point, so they are compared within each trunk; trunks (seeds) are the repetitions. A small panel has the cost of the lengths, next to what a run for
each would cost.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ditscale.errors import UserError, count
from ditscale.figures.kit import panels, script, study_table, style
from ditscale.figures.kit.length_costs import cost_words, draw_costs, length_costs
from ditscale.scaling.differences import INCONCLUSIVE, MIN_SEEDS, REAL, too_few
from ditscale.scaling.interval import half_width

NAME = "branches"
COLUMNS = ["model", "variant", "recipe", "trunk", "seed", "images_seen", "branch_images", "score", "trunk_score", "ratio", "train_flops",
           "own_train_flops"]


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """The end of each finished branch with its trunk's score at the same images, as ``trunk_score``.

    Raises:
        UserError: there is no such pair.
    """
    ends = table[(table["branch_images"] > 0) & table["final"].astype(bool)]
    if ends.empty:
        raise UserError("the study has no finished branch; `train.branches: [...]` in its spec makes them (docs/studies.md)")
    of_trunk = table.set_index(["run_id", "images_seen"])["score"].astype(float)
    of_trunk = of_trunk[~of_trunk.index.duplicated()]
    length = table.groupby("run_id")["images_seen"].max()
    found = ends.assign(trunk_score=[of_trunk.get((row.trunk, row.images_seen), math.nan) if _is_constant(row, length) else math.nan
                                     for row in ends.itertuples()])
    found = found[found["trunk_score"].notna()]
    if found.empty:
        raise UserError("no trunk has a score at the images where one of its branches ends, before its own decay; set train.checkpoint_every_images so "
                        "that the lengths in train.branches are multiples of it")
    return found.assign(ratio=found["score"].astype(float) / found["trunk_score"]).sort_values(["model", "variant", "images_seen", "seed"],
                                                                                               ignore_index=True)


def _is_constant(branch, length: pd.Series) -> bool:
    """Whether the trunk's rate has not begun to fall where a branch ends: its decay has the branch's share."""
    return branch.trunk in length and branch.images_seen <= length[branch.trunk] * branch.branch_images / branch.images_seen


def compared(found: pd.DataFrame) -> pd.DataFrame:
    """For each model, variant and length: the geometric mean of end / average over trunks, Student's 95 % interval, verdict and its reason."""
    rows = []
    for (model, variant, images), own in found.groupby(["model", "variant", "images_seen"], sort=False):
        logs = np.log(own["ratio"].to_numpy(float))
        mean, half = logs.mean(), half_width(logs) if len(logs) >= MIN_SEEDS else math.nan
        reason = too_few(len(logs)) if math.isnan(half) else f"the interval {'contains' if abs(mean) <= half else 'excludes'} zero"
        rows.append({"model": model, "variant": variant, "images_seen": int(images), "trunks": len(own), "change": math.expm1(mean),
                     "low": math.expm1(mean - half), "high": math.expm1(mean + half), "verdict": REAL if abs(mean) > half else INCONCLUSIVE,
                     "reason": reason})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> style.Drawing:
    """The figure, its points and its caption.

    Raises:
        UserError: there are no branches to compare, or the scores are not comparable.
    """
    rows, left_out = study_table.scored(table)
    found = pairs(rows)
    result, left = compared(found), _left_out(rows, found)
    along = rows[rows["run_id"].isin(found["trunk"])].sort_values("images_seen")
    colors, costs = dict(zip(dict.fromkeys(found["model"]), style.ramp(found["model"].nunique()))), length_costs(rows)
    with style.paper():
        figure, over, change, cost = _axes(with_costs=not costs.empty)
        for _, own in along.groupby("run_id"):
            over.plot(own["images_seen"], own["score"], color=colors[own["model"].iloc[0]], linewidth=0.8, alpha=0.7)
        ends = pd.concat([found, left[left["model"].isin(list(colors))]])
        over.scatter(ends["images_seen"], ends["score"], c=ends["model"].map(colors), marker="v", s=22, zorder=3)
        panels.images_axis(over, rows["images_seen"])
        panels.score_axis([over], style.score_label(rows), pd.concat([along["score"], ends["score"]]))
        for place, (model, own) in enumerate(result.groupby("model", sort=False)):
            apart = 1.0 + 0.05 * (place - (len(colors) - 1) / 2)               # so that intervals do not hide each other
            errors = 100 * np.array([own["change"] - own["low"], own["high"] - own["change"]])
            change.errorbar(apart * own["images_seen"], 100 * own["change"], yerr=np.nan_to_num(errors), color=colors[model], marker="v", capsize=3,
                            linewidth=1)
        change.axhline(0.0, color=style.MUTED, linewidth=0.8)
        panels.images_axis(change, found["images_seen"])
        change.set(ylabel="End against average, %")
        if cost:
            draw_costs(cost, costs)
        panels.legend(figure, [*(Line2D([], [], color=color, label=study_table.short_name(model)) for model, color in colors.items()),
                               Line2D([], [], color=style.INK, linestyle="", marker="v", label="end of a branch"),
                               Line2D([], [], color=style.INK, linewidth=0.8, label="average along a trunk")])
    words = " ".join([_caption(found, result, not costs.empty), *_not_compared(left), *([cost_words(costs)] if cost else [])])
    return style.Drawing(NAME, figure, found.reindex(columns=COLUMNS), words + left_out,
                         {"comparisons": result.astype(object).where(result.notna(), None).to_dict("records"), "costs": costs.to_dict("records")})


def _axes(with_costs: bool):
    """The figure, the panels of scores and of their ratios, and that of costs or None."""
    if not with_costs:
        figure, [[over, change]] = panels.grid(1, 2, row_height=3.2)
        return figure, over, change, None
    figure = Figure(figsize=(style.WIDTH, 5.0), layout="constrained")
    named: dict[str, Axes] = figure.subplot_mosaic([["over", "change"], ["over", "cost"]], height_ratios=[1.1, 1])
    for axes in named.values():
        axes.grid(True, which="major")
    return figure, named["over"], named["change"], named["cost"]


def _caption(found: pd.DataFrame, result: pd.DataFrame, with_costs: bool) -> str:
    sentences = [f"{study_table.short_name(row.model)} at {row.images_seen:,}: {row.change:+.1%}"
                 + ("" if math.isnan(row.low) else f" ({row.low:+.1%} to {row.high:+.1%})") + f", {row.verdict}" for row in result.itertuples()]
    return (f"Left: score of the averages along each trunk, whose rate is constant up to its own decay, and at the end of each branch. "
            f"{'Top right' if with_costs else 'Right'}: the branch's end against its trunk's average at the same images, geometric mean over "
            f"{_trunks(result)} with Student's 95 % interval; below zero the decay is better. {'; '.join(sentences)}.")


def _trunks(result: pd.DataFrame) -> str:
    """``a model's 3 trunks``: those of one point."""
    fewest, most = result["trunks"].min(), result["trunks"].max()
    return f"a model's {count(most, 'trunk') if fewest == most else f'{fewest} to {most} trunks'}"


def _left_out(rows: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The ends of finished branches without a score of their trunk to compare with."""
    return rows[(rows["branch_images"] > 0) & rows["final"].astype(bool) & ~rows["run_id"].isin(found["run_id"])]


def _not_compared(left: pd.DataFrame) -> list[str]:
    """A sentence on the ends without a pair, by length; none if there are none."""
    if left.empty:
        return []
    *lengths, longest = [f"{images:,}" for images in sorted(left["images_seen"].unique())]
    at = f"{', '.join(lengths)} and {longest}" if lengths else longest
    return [f"Not compared, as the trunk has no {left['metric'].iloc[0]} there before its own decay: {count(len(left), 'branch', 'branches')} at {at} images."]


SCRIPT = script.figure(__doc__, draw)
main = SCRIPT.main
