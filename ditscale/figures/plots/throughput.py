"""Measured training speed and peak memory per accelerator, one bar per model and variant, as in MaskDiT's figure (arXiv 2306.09305).

Only values that runs logged; nothing is forecast. Runs that differ only in seed share a bar.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ditscale.cost.memory import GIB
from ditscale.errors import UserError
from ditscale.figures.kit import panels, script, study_table, style, variant_table

NAME = "throughput"
BAR = ["model", "variant"]
# Added to a bar's label if runs of one model and variant differ in them: {column: how to write a value}.
SETTINGS: dict[str, Callable[[Any], str]] = {"block": lambda v: panels.BLOCK_NAMES.get(v, v), "mask_ratio": lambda v: f"mask {v:g}",
            "accelerators": lambda v: study_table.count(v, "accelerator"), "global_batch": lambda v: f"batch {v}",
            "micro_batch": lambda v: f"micro batch {v:g}", "precision": str, "strategy": str}
COLUMNS = [*BAR, *SETTINGS, "device", "runs", "images_per_second", "mfu", "peak_memory_gib"]
BAR_INCHES = 0.21


def bars(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per bar, smallest model first: ``COLUMNS`` and ``label``. Speed is per accelerator and the median over the runs of a bar;
    memory is their maximum.

    Raises:
        UserError: runs used several kinds of device, or none has logged its speed.
    """
    study_table.require_columns(runs, ("device", "images_per_second", "mfu", "peak_memory_bytes", *SETTINGS))
    study_table.require_comparable(runs, ("device",))
    measured = runs[runs["images_per_second"] > 0]
    if measured.empty:
        raise UserError(f"none of {study_table.count(len(runs), 'run')} has logged its speed yet (metrics.jsonl)")
    per_accelerator = measured["images_per_second"] / measured["accelerators"]
    measured = measured.assign(images_per_second=per_accelerator, peak_memory_gib=measured["peak_memory_bytes"] / GIB)
    groups = measured.groupby([*BAR, *SETTINGS, "device"], dropna=False, sort=False)
    found = groups.agg(runs=("run_id", "nunique"), images_per_second=("images_per_second", "median"), mfu=("mfu", "median"),
                       peak_memory_gib=("peak_memory_gib", "max"), macs=("macs", "min")).reset_index()
    varied = [name for name in SETTINGS if (found.groupby(BAR)[name].nunique() > 1).any()]
    found["label"] = [" · ".join([study_table.short_name(row["model"]), *(SETTINGS[name](row[name]) for name in varied)])
                      for _, row in found.iterrows()]
    place = {variant: i for i, variant in enumerate(variant_table.variants_in_order(found))}
    found["_variant"], found["_macs"] = found["variant"].map(place), found.groupby("model")["macs"].transform("min")
    found = found.sort_values(["_macs", "model", *varied, "_variant"], kind="stable", ignore_index=True)
    return found[[*COLUMNS, "label"]]


def draw(runs: pd.DataFrame) -> style.Drawing:
    """The figure, its points and its caption.

    Raises:
        UserError: as ``bars``.
    """
    found = bars(runs)
    places, ticks = _places(found)
    with style.paper():
        figure = Figure(figsize=(style.WIDTH, 1.3 + BAR_INCHES * (places.max() + 1)), layout="constrained")
        speed, memory = figure.subplots(1, 2, sharey=True)
        _bars(speed, found, places, found["images_per_second"], found["mfu"], "Speed\n(images/s per accelerator)")
        _bars(memory, found, places, found["peak_memory_gib"], None, "Peak memory\n(GiB per accelerator)")
        speed.set_yticks(list(ticks.values()), list(ticks))
        speed.set_ylim(places.max() + 0.7, -0.7)
        kinds = variant_table.variants_in_order(found)
        handles = [Line2D([], [], linestyle="", marker="s", markersize=8, color=style.variant_color(kind), label=kind) for kind in kinds]
        if len(kinds) > 1:
            panels.legend(figure, handles)
    return style.Drawing(NAME, figure, found[COLUMNS], _caption(found))


def _places(found: pd.DataFrame) -> tuple[np.ndarray, dict[str, float]]:
    """The position of each bar, with gaps between labels, and the middle of each label's bars."""
    group = (found["label"] != found["label"].shift()).cumsum() - 1
    gap = 0.5 if found["variant"].nunique() > 1 else 0.15
    places = np.arange(len(found)) + gap * group.to_numpy()
    return places, {label: places[found["label"] == label].mean() for label in dict.fromkeys(found["label"])}


def _bars(axes, found: pd.DataFrame, places: np.ndarray, values: pd.Series, mfu: pd.Series | None, label: str) -> None:
    """Draws bars with their values at the ends, MFU in brackets if known."""
    colors = [style.variant_color(variant) for variant in found["variant"]]
    axes.barh(places, values.fillna(0.0), height=0.82, color=colors, zorder=2)
    for i, (place, value) in enumerate(zip(places, values)):
        share = f" ({100 * mfu.iloc[i]:.0f} %)" if mfu is not None and mfu.iloc[i] > 0 else ""
        text = f"{_three_digits(value)}{share}" if value > 0 else "not logged"
        axes.annotate(text, (value if value > 0 else 0.0, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    room = 1.6 if mfu is not None and (mfu > 0).any() else 1.25
    axes.set(xlabel=label, xlim=(0, room * values.max() if values.max() > 0 else 1.0))
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.tick_params(axis="y", length=0)


def _three_digits(value: float) -> str:
    """``1434.2`` -> ``1,430``, ``1`` -> ``1.00``."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else style.score_text(value)


def _caption(found: pd.DataFrame) -> str:
    def summary(name: str) -> str:
        values = found[name].dropna().unique()
        return " or ".join(SETTINGS[name](value) for value in sorted(values)) if len(values) <= 3 else f"{name.replace('_', ' ')} varies"

    how = ", ".join(filter(None, (summary(name) for name in ("accelerators", "global_batch", "micro_batch", "precision", "strategy"))))
    known = found["mfu"] > 0
    mfu = " In brackets: model FLOPs utilization of the dense bf16 peak." if known.any() else ""
    seeds = f"; bars of several runs ({', '.join(map(str, sorted(found['runs'].unique())))}) are their median" if (found["runs"] > 1).any() else ""
    return (f"Training speed and peak memory as measured on {found['device'].iloc[0] or 'a device that was not recorded'} ({how}): images/s "
            f"is the median over the last half of a run's log, divided by its accelerators{seeds}. Memory is the peak that rank 0 allocated on "
            f"its accelerator, or on a CPU the resident memory of its process.{mfu}")


SCRIPT = script.figure(__doc__, draw, rows=study_table.read_runs)
main = SCRIPT.main
