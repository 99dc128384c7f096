"""Score against one swept setting at equal images: mask ratio, guidance scale, learning rate or any other key of a run.

One curve per model, variant and block design, with its lowest mean marked. In a guidance sweep the passports differ only in guidance.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import ticker

from ditscale.figures.kit import panels, script, seeds, study_table, style, sweep_rows
from ditscale.scaling.differences import REAL, compare_scores

NAME = "sweep"
WORDS = {"mask_ratio": "Mask ratio (share of tokens)", "guidance_scale": "Guidance scale (1: none)", "lr": "Learning rate",
         "global_batch": "Global batch (images)", "nfe": "Model evaluations per image (NFE)"}
PALETTE = tuple(style.VARIANT_COLORS.values())
COLUMNS = ["curve", "run_id", "model", "variant", "seed", "value", "images_seen", "train_flops", "metric", "score"]


def draw(table: pd.DataFrame, over: str, at: int | None = None, study: Path | None = None) -> style.Drawing:
    """The figure, its points and its caption.

    Args:
        over: a column of the table, a field of its passports, or a key of the runs' configs, as ``objective.cls_weight``.
        at: images seen; default the largest count at which every run was evaluated.
        study: the runs' directory, needed for a config key.

    Raises:
        UserError: scores or runs of a curve differ in more than the setting, or there is no sweep of it.
    """
    usable, left_out = study_table.scored(sweep_rows.with_value(table, over, study), ("metric", "formulation"))
    rows, moving = sweep_rows.select(usable, over, at)
    values = sorted(rows["value"].unique()) if _is_number(rows) else list(dict.fromkeys(rows["value"].map(str)))
    rows = rows.assign(x=rows["value"] if _is_number(rows) else rows["value"].map(str).map(values.index))
    looks, best = _looks(rows), {}
    with style.paper():
        figure, [[axes]] = panels.grid(1, 1, row_height=3.5)
        for curve, own in rows.groupby("curve", sort=False):
            best[curve] = _curve(axes, own, looks[curve], joined=_is_number(rows))
        panels.score_axis([axes], style.score_label(rows), _shown(rows["score"], best.values()))
        _x_axis(axes, values, over, _is_number(rows))
        handles = [panels.handle(look, curve) for curve, look in looks.items()]
        panels.legend(figure, handles, columns=4 if max(map(len, looks)) < 16 else 3)
    caption = _caption(rows, over, best, moving) + left_out
    return style.Drawing(f"{NAME}_{over.replace('.', '_')}", figure, rows[COLUMNS], caption)


def _is_number(rows: pd.DataFrame) -> bool:
    return pd.api.types.is_numeric_dtype(rows["value"].infer_objects()) and not pd.api.types.is_bool_dtype(rows["value"].infer_objects())


def _looks(rows: pd.DataFrame) -> dict[str, panels.Look]:
    """With several variants, a color per variant and a line and marker per model; otherwise a look per curve."""
    first = rows.drop_duplicates("curve").set_index("curve")
    if first["variant"].nunique() > 1:
        lines = style.model_lines(list(first["model"].unique()))
        return {curve: panels.Look(style.variant_color(run["variant"]), *lines[run["model"]]) for curve, run in first.iterrows()}
    n, shapes = len(PALETTE), style.MODEL_LINES
    return {curve: panels.Look(PALETTE[i % n], *shapes[(i + i // n) % len(shapes)]) for i, curve in enumerate(first.index)}


def _curve(axes, own: pd.DataFrame, look: panels.Look, joined: bool) -> pd.DataFrame:
    """Draws the means at each value with their band, the seeds as points, and a ring at the lowest mean; returns the means, lowest first."""
    means = pd.DataFrame([(x, rows["value"].iloc[0], *seeds.mean_and_interval(rows["score"].to_numpy()), len(rows))
                          for x, rows in own.groupby("x")], columns=["x", "value", *seeds.COLUMNS[1:]])
    axes.plot(means["x"], means["mean"], color=look.color, linestyle=look.dashes if joined else "", linewidth=look.width, zorder=3,
              marker=look.marker, markersize=5.0)
    if joined and means["low"].notna().any():
        axes.fill_between(means["x"], means["low"], means["high"], color=look.color, alpha=0.15, linewidth=0, zorder=1)
    if (means["seeds"] > 1).any():
        axes.plot(own["x"], own["score"], linestyle="", marker=look.marker, markersize=2.8, color=look.color, alpha=0.6, zorder=2)
    means = means.sort_values("mean", kind="stable", ignore_index=True)
    axes.plot(means["x"].iloc[:1], means["mean"].iloc[:1], linestyle="", marker="o", markersize=12, markerfacecolor="none",
              markeredgecolor=look.color, markeredgewidth=1.3, zorder=4)
    return means


def _shown(scores: pd.Series, means) -> list[float]:
    """The range of the score axis: all scores, and the bands up to 25 % beyond them."""
    bands = pd.concat(means)[["low", "high"]].to_numpy().ravel()
    return [*scores, *np.clip(bands[np.isfinite(bands)], scores.min() / 1.25, scores.max() * 1.25)]


def _x_axis(axes, values: list, over: str, number: bool) -> None:
    leaf = over.rpartition(".")[2]
    axes.set_xlabel(WORDS.get(leaf, over.replace("_", " ").capitalize()))
    if not number:
        crowded = sum(map(len, values)) > 48
        axes.set_xticks(range(len(values)), values, rotation=18 if crowded else 0, ha="right" if crowded else "center")
        axes.set_xlim(-0.5, len(values) - 0.5)
    elif panels.log_or_linear(values):
        limits = style.log_limits(values, pad=0.06)
        axes.set(xscale="log", xlim=limits)
        axes.xaxis.set_major_locator(ticker.FixedLocator(_spread(values)))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(ticker.NullLocator())


def _spread(values: list[float]) -> list[float]:
    """The values far enough from the previous tick on a log axis for both to be readable; always the first."""
    ticks = values[:1]
    for value in values[1:]:
        if value / ticks[-1] >= (values[-1] / values[0]) ** 0.09:
            ticks.append(value)
    return ticks


def _caption(rows: pd.DataFrame, over: str, best: dict[str, pd.DataFrame], moving: list[str]) -> str:
    n = rows.groupby(["curve", "value"])["run_id"].nunique()
    parts = [f"{style.metric_name(rows)} against {over} after {rows['images_seen'].iloc[0]:,} images: one curve per model and variant, a ring "
             "at its lowest mean.", *(_lowest(curve, means, rows) for curve, means in best.items()), seeds.sentence(n, "Small points")]
    if moving:
        parts.append(f"These change with {over}: {', '.join(moving)}. The curve shows the joint effect.")
    if rows.groupby("curve")["train_flops"].nunique().max() > 1:
        parts.append("Equal images are not equal training FLOPs here.")
    return " ".join(parts)


def _lowest(curve: str, means: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Where a curve is lowest, whether that is the end of the sweep, and which values cannot be distinguished from it."""
    lowest, own = means.iloc[0], rows[rows["curve"] == curve]
    text = f"{curve}: lowest at {lowest['value']} ({style.score_text(lowest['mean'])})"
    if pd.api.types.is_number(lowest["value"]) and lowest["x"] in (means["x"].min(), means["x"].max()):
        text += ", the end of the sweep: the best value may lie beyond it"
    scores = {value: group["score"].to_numpy() for value, group in own.groupby("value")}
    open_ = [value for value in scores if value != lowest["value"]
             and compare_scores(scores[lowest["value"]], scores[value]).verdict != REAL]
    if open_ and means["seeds"].min() >= seeds.MIN_SEEDS:
        text += f", INCONCLUSIVE against {', '.join(map(str, open_))}"
    return text + "."


OPTIONS = {"over": {"required": True, "metavar": "KEY", "help": "What was swept: mask_ratio, guidance_scale, lr, or a config key."},
           "at": {"type": int, "metavar": "IMAGES", "help": "Images seen.  [default: the largest count that all runs share]"}}
SCRIPT = script.figure(__doc__, lambda table, arguments: draw(table, arguments.over, arguments.at, arguments.study), options=OPTIONS)
main = SCRIPT.main
