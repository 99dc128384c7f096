"""The interactive chart of score against cost: pointer, tap or keys identify a run; variants, models and seeds can be hidden.

``explorer.js`` draws it in the browser from the data here. In print and without scripts, the static figure replaces it.
"""

import math
from pathlib import Path

import pandas as pd

from ditscale.figures.kit import panels, study_table, style, variant_table
from ditscale.report import page

SCRIPT = (Path(__file__).parent / "explorer.js").read_text(encoding="utf-8")
COSTS = ("images_seen", "train_flops", "accelerator_hours")                    # a point's numbers are in this order, then the score
HELP = ("Point at a curve, or tap it, to see the run. Keyboard: arrow keys, when the chart has focus. Open markers are "
        "checkpoints, the filled one is a run's end.")


def section(usable: pd.DataFrame, static: str, price: float | None) -> str:
    """The explorer's element on the page, its data, and the static figure that it folds away.

    Args:
        usable: rows of one metric and passport, scores above 0.
        static: HTML.
        price: price of one accelerator-hour, if given.
    """
    return "\n".join([
        '<div id="explorer"></div>', page.embedded_json(data(usable, price), "explorer-data"),
        page.folded("The static figure, with its law", static, "static-figure", is_open=True),
    ])


def data(usable: pd.DataFrame, price: float | None) -> dict:
    """The script's data: a look and points (images, FLOPs, accelerator-hours, score) for each run; unknown values are None."""
    looks = _looks(usable)
    return {
        "metric": style.metric_name(usable), "label": style.score_label(usable), "floor": study_table.floor_of(usable), "price": price,
        "help": HELP, "variants": variant_table.variants_in_order(usable),
        "runs": [{"id": str(run_id), "model": str(own["model"].iloc[0]), "variant": str(own["variant"].iloc[0]),
                  "block": str(own["block"].iloc[0]) if "block" in own else "", "seed": _plain(own["seed"].iloc[0]),
                  "done": bool(own["final"].any()), "look": looks[run_id], "points": _points(own)}
                 for run_id, own in usable.groupby("run_id", sort=False)],
    }


def _points(own: pd.DataFrame) -> list[list]:
    columns = [own[name] if name in own else pd.Series(math.nan, own.index) for name in (*COSTS, "score")]
    return [[_plain(value) for value in point] for point in zip(*columns)]


def _plain(value):
    """A number for JSON, to six digits unless it is whole; text unchanged."""
    if isinstance(value, str):
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 1e15 else float(f"{number:.6g}")


def _looks(usable: pd.DataFrame) -> dict[str, dict]:
    """Marker by patch size and width by size; color by variant or block design if there are several, else by patch size."""
    colors = {}
    for column, known in (("variant", style.VARIANT_COLORS), ("block", style.BLOCK_COLORS)):
        if column in usable and usable[column].nunique() > 1:
            colors = {run_id: known.get(value, style.MUTED) for run_id, value in zip(usable["run_id"], usable[column])}
            break
    return {run_id: {"color": page.css_color(colors.get(run_id, look.color)), "marker": look.marker,
                     "width": round(float(look.width), 2)}
            for run_id, look in panels.size_looks(usable).runs.items()}
