"""The interactive chart of score against cost: pointer, tap or keys identify a run; variants, models and seeds can be hidden.

``explorer.js`` draws it in the browser from the data here. In print and without scripts, the static figure replaces it.
"""

import math
from pathlib import Path

import pandas as pd

from ditscale.figures.kit import panels, runs, study_table, style, variant_table
from ditscale.report import page

SCRIPT = (Path(__file__).parent / "explorer.js").read_text(encoding="utf-8")
COSTS = ("images_seen", "train_flops", "accelerator_hours")                    # a point's numbers are in this order, then the score
MOST_RUNS = 400
FACTS = ("run_id", "model", "variant", "block", "seed", "final")
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
    usable, more = _fewer(usable)
    looks, unknown = _looks(usable), {name: math.nan for name in COSTS if name not in usable}
    held = usable.assign(**unknown, **({} if "block" in usable else {"block": ""}))
    return {
        "metric": style.metric_name(usable), "label": style.score_label(usable), "floor": study_table.floor_of(usable), "price": price,
        "help": HELP + more, "variants": variant_table.variants_in_order(usable),
        "runs": [{"id": str(run_id[0]), "model": str(model[0]), "variant": str(variant[0]), "block": str(block[0]), "seed": _plain(seed[0]),
                  "done": bool(final.any()), "look": looks[run_id[0]], "points": [[_plain(value) for value in point] for point in zip(*points)]}
                 for run_id, model, variant, block, seed, final, *points in runs.per_run(held, *FACTS, *COSTS, "score")],
    }


def _fewer(usable: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """At most ``MOST_RUNS`` runs, the first of each model, variant and recipe, then the second ones ...; and a sentence if some are left out."""
    same = [name for name in ("model", "variant", "block", "recipe") if name in usable]
    first = usable.drop_duplicates("run_id")
    if len(first) <= MOST_RUNS:
        return usable, ""
    turn = first.groupby(same, dropna=False).cumcount().to_numpy()
    kept = first["run_id"].iloc[turn.argsort(kind="stable")[:MOST_RUNS]]
    return usable[usable["run_id"].isin(kept)], f" Shown are {MOST_RUNS} of {len(first):,} runs; table.csv has all."


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
    for column, color_of in (("variant", style.variant_color), ("block", style.block_color)):
        if column in usable and usable[column].nunique() > 1:
            colors = {run_id: color_of(value) for run_id, value in zip(usable["run_id"], usable[column])}
            break
    return {run_id: {"color": page.css_color(colors.get(run_id, look.color)), "marker": look.marker,
                     "width": round(float(look.width), 2)}
            for run_id, look in panels.size_looks(usable).runs.items()}
