"""The section on training and sampling together: the frontier at any number of images to be made, with a slider.

``deployment.js`` draws it in the browser from the data here. In print and without scripts, the table of a few numbers of images is all.
"""

import math
from collections import Counter
from pathlib import Path

import pandas as pd

from ditscale.errors import UserError
from ditscale.figures.kit import study_table, style, variant_table
from ditscale.report import page
from ditscale.studies.table import cells
from ditscale.studies.table.sampling_cost import flops_per_image, images_of_evaluations
from ditscale.studies.table.study import Study

SCRIPT = (Path(__file__).parent / "deployment.js").read_text(encoding="utf-8")
MOST_CELLS, MOST_SENTENCES = 400, 8
ROWS = 4                                                                       # of the table, after 0 images: powers of ten
HELP = "Filled points are on the frontier at this number of images, crosses are beaten. Costs and scores are means over seeds, without their noise."


def section(usable: pd.DataFrame) -> str:
    """The section; empty if recipes or the cost of training or of an image are not known, or only one model was trained.

    Args:
        usable: rows of one metric and passport, scores above 0.
    """
    if not {"recipe", "macs", "train_flops"} <= set(usable):
        return ""
    per_image = flops_per_image(usable)
    known = usable[(per_image > 0) & (usable["train_flops"] > 0)].reset_index(drop=True)
    if known["model"].nunique() < 2:
        return ""
    found = cells.cells(known)
    evens, refused = [], []
    try:
        evens = Study(Path("."), known).break_evens()
    except UserError as error:                                                 # recipes that share a name, for example
        refused = [page.note(f"No break-even numbers of images: {error}.")]
    sentences = [f"{one.sentence[0].upper()}{one.sentence[1:]}." for one in evens[:MOST_SENTENCES]]
    left = [f"Left out, the cost of an image or of training is not known: {study_table.count(usable['run_id'].nunique() - known['run_id'].nunique(), 'run')}."
            ] if known["run_id"].nunique() < usable["run_id"].nunique() else []
    return page.section(
        "Training and sampling together", page.paragraph(_introduction(known)), '<div id="deployment"></div>',
        page.embedded_json(data(known, found), "deployment-data"), page.table(*table(found), numbers={0, 1, 2}), *refused,
        *([page.findings([*sentences, *left])] if sentences or left else []))


def _introduction(known: pd.DataFrame) -> str:
    own = images_of_evaluations(known)
    evaluations = f"On record are {own:,.0f} images per run in the median." if own > 0 else "How many is not on record here."
    return ("A model that will make many images should be smaller and trained longer than one that is best for its training compute. The cost here is the "
            "FLOPs of training and of making n images, each as the scores' images were made; the decoder is not counted. Evaluations make such images "
            f"too, and are part of n. {evaluations}")


def table(found: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: the frontier at 0 images and at ``ROWS`` powers of ten around the number at which sampling costs as much as training."""
    rows = []
    for images in [0, *_numbers(found)]:
        on = found[cells.on_frontier(found, images)]
        counts = Counter(on["model"].str.removeprefix("DiT-") + " " + on["variant"])
        best = on.iloc[-1]
        share = images * best["flops_per_image"] / (images * best["flops_per_image"] + best["train_flops"])
        rows.append([f"{images:,.0f}", f"{len(on)} of {len(found)}", style.percent(share),
                     ", ".join(f"{name} ({count})" for name, count in counts.items())])
    return ["Images made", "Cells on the frontier", "Sampling's share at the best score", "Their models, cheapest training first"], rows


def _numbers(found: pd.DataFrame) -> list[float]:
    """Powers of ten from a tenth of the number at which, for the median cell, sampling costs as much as training."""
    equal = math.log10((found["train_flops"] / found["flops_per_image"]).median())
    return [10.0 ** power for power in range(max(0, math.floor(equal) - 1), max(0, math.floor(equal) - 1) + ROWS)]


def data(known: pd.DataFrame, found: pd.DataFrame) -> dict:
    """The script's data: of each cell its name, color, training FLOPs, FLOPs per image and score; and the slider's range in log10 of the images."""
    numbers = _numbers(found)
    shown = _fewer(found)
    several = known["variant"].nunique() > 1
    colors = {variant: page.css_color(style.variant_color(variant) if several else style.PATCH_COLORS[2])
              for variant in variant_table.variants_in_order(known)}
    more = f" Shown are {len(shown)} of {len(found):,} cells; no other is on the frontier at a number in the table." if len(shown) < len(found) else ""
    return {"label": style.score_label(known), "metric": style.metric_name(known), "help": HELP + more,
            "powers": [math.log10(numbers[0]) - 1, math.log10(numbers[-1]) + 1], "variants": colors if several else {},
            "cells": [{"name": row.cell, "color": colors[row.variant], "train": float(f"{row.train_flops:.6g}"), "image": float(f"{row.flops_per_image:.6g}"),
                       "score": float(f"{row.score:.6g}")} for row in shown.itertuples()]}


def _fewer(found: pd.DataFrame) -> pd.DataFrame:
    """At most ``MOST_CELLS`` cells: those on the frontier at a number in the table, then the cheapest."""
    if len(found) <= MOST_CELLS:
        return found
    on = sum(cells.on_frontier(found, images).astype(int) for images in [0, *_numbers(found)])
    order = pd.Series(-on, found.index).sort_values(kind="stable").index[:MOST_CELLS]
    return found.loc[sorted(order)]
