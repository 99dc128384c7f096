"""The cost-score frontier: models, variants and training lengths that no other beats in both cost and score, with probabilities.

A cell is one model, variant and number of images, scored as the geometric mean over its seeds. Filled points are on the frontier.
With --images-to-make the cost is that of training and of making images together.
"""

import math
from types import SimpleNamespace
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from ditscale.errors import UserError
from ditscale.figures.kit import costs, labels, panels, runs, script, study_table, style, variant_table
from ditscale.scaling import rivals
from ditscale.scaling.break_even import BreakEven
from ditscale.scaling.frontier import Cell, Frontier
from ditscale.studies.table.cells import BRANCH, TRUNK, models_of_only
from ditscale.studies.table.comparable import trunks
from ditscale.studies.table.sampling_cost import flops_per_image, images_of_evaluations
from ditscale.studies.table.study import Study

NAME = "frontier"
ONE_OF_EACH = variant_table.SHARED
MOST_NAMES, FEWER_NAMES = 7, 5          # on the frontier; the second where there are more than MOST_LARGE cells
MOST_LARGE = 40                         # cells on the frontier that are drawn with large points
MOST_SENTENCES = 4                      # on break-even numbers of images, in the caption; the card has all
OPTIONS = {**costs.OPTIONS, "images-to-make": {
    "type": float, "metavar": "N", "help": "Add the FLOPs of making N images with each model, as its score's images were made."}}


def draw(table: pd.DataFrame, options: SimpleNamespace) -> style.Drawing:
    """The figure with one point per cell, its caption and the frontier's card.

    Raises:
        UserError: the scores are not comparable, the cost is not known, or ``options.price`` is missing.
    """
    study_table.require_columns(table, ("recipe",))
    usable, left_out = study_table.scored(table, ONE_OF_EACH)
    usable, unknown = costs.known(usable, options.cost)
    costs.values(usable, options.cost, options.price)
    images = options.images_to_make
    study, usable, no_price = _study(options, usable)
    found = study.frontier(options.cost, price=options.price, images_to_make=images)
    evens = [] if images is None else study.break_evens()
    variants = _variants(usable, found)
    with style.paper():
        figure, axes = style.new_axes(height=4.9)
        _cells(axes, found, variants)
        costs.axis(axes, [cell.cost for cell in found.cells], options.cost)
        if images is not None:
            axes.set_xlabel(f"Training and making {images:,.0f} images (FLOPs)")
        edges = [end for cell in found.cells for end in ((cell.interval.low, cell.interval.high) if cell.interval else (cell.score,))]
        panels.score_axis([axes], style.score_label(usable), edges)
        panels.legend(figure, panels.variant_handles(usable) + _handles(found), columns=3)
        _names(axes, found)
    caption = _caption(usable, found, options) + _making(usable, evens, images) + left_out + unknown + no_price
    card = found.card() if images is None else {**found.card(), "images_to_make": images, "break_even": [one.card() for one in evens]}
    return style.Drawing(costs.file_name(NAME, options.cost), figure, _points(found, variants), caption, card)


def _study(options: SimpleNamespace, usable: pd.DataFrame) -> tuple[Study, pd.DataFrame, str]:
    """The study, its rows, and a sentence on those that are left out because it is not known what an image costs.

    Raises:
        UserError: images are to be made and --cost is not train_flops, or no row says what an image costs.
    """
    if options.images_to_make is None:
        return Study(options.study, usable), usable, ""
    if options.cost != "train_flops":
        raise UserError(f"--images-to-make adds FLOPs, and --cost is {options.cost}: leave --cost out")
    if not 0 <= options.images_to_make < math.inf:
        raise UserError(f"--images-to-make {options.images_to_make:g}: give a number of images, 0 or more")
    rows, unknown = study_table.known(usable.assign(_image=flops_per_image(usable)), "_image", "cost of an image (macs with nfe and guidance_scale)")
    rows = rows.drop(columns="_image")
    return Study(options.study, rows), rows, unknown


def _making(usable: pd.DataFrame, evens: list[BreakEven], images: float | None) -> str:
    """For the caption: what counts as an image made, and from how many on a smaller model is cheaper."""
    if images is None:
        return ""
    own = images_of_evaluations(usable)
    on_record = "the evaluations' FLOPs are not on record" if math.isnan(own) else f"on record are {own:,.0f} per run in the median"
    parts = [f" An image costs its forward passes with the score's sampler and guidance; the decoder is not counted. Evaluations make such images too: "
             f"{on_record}, which are part of the {images:,.0f}."]
    parts += [f"{one.sentence[0].upper()}{one.sentence[1:]}." for one in evens[:MOST_SENTENCES]]
    if len(evens) > MOST_SENTENCES:
        parts.append(f"{len(evens) - MOST_SENTENCES} more pairs are in the card.")
    return " ".join(parts)


def _variants(usable: pd.DataFrame, found: Frontier) -> dict[str, str]:
    """The variant of each cell, by its runs."""
    of_run = usable.assign(trunk=trunks(usable)).drop_duplicates("trunk").set_index("trunk")["variant"]
    return {cell.name: of_run[cell.runs[0]] for cell in found.cells}


def _cells(axes, found: Frontier, variants: dict[str, str]) -> None:
    size = 7.0 if len(found.points) <= MOST_LARGE else 4.0
    bars: dict[tuple, list] = {}                                               # one artist for each look, not for each cell
    dots: dict[tuple, list] = {}
    for cell in found.cells:
        color, on = style.variant_color(variants[cell.name]), cell.on_frontier
        if cell.interval:
            bars.setdefault((color if on else style.BAND, 1.3 if on else 0.8), []).append(
                [(cell.cost, cell.interval.low), (cell.cost, cell.interval.high)])
        dots.setdefault((color, on, on and _doubtful(cell)), []).append((cell.cost, cell.score))
    for (color, width), of_look in bars.items():
        runs.lines(axes, of_look, color=color, linewidth=width, zorder=2)
    for (color, on, doubtful), places in dots.items():
        axes.plot(*zip(*places), linestyle="", marker="o" if on else "x", markersize=size if on else min(size, 4.5), zorder=4 if on else 3,
                  markerfacecolor=style.PAPER if doubtful else color, markeredgecolor=color, markeredgewidth=1.5 if on else 1.1,
                  alpha=1.0 if on else 0.75)
    ends = [cell.cost for cell in found.points], [cell.score for cell in found.points]
    axes.step([*ends[0], max(cell.cost for cell in found.cells)], [*ends[1], ends[1][-1]], where="post", color=style.INK, linewidth=1.2, zorder=1)


def _doubtful(cell: Cell) -> bool:
    return not cell.probability >= 0.5


def _handles(found: Frontier) -> list[Line2D]:
    handles = []
    dots: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 7.0, "color": style.INK}
    known = found.noise.status.ok
    if known:
        handles.append(Line2D([], [], **dots, label="on it, even odds or better"))
    if any(_doubtful(cell) for cell in found.points):
        handles.append(Line2D([], [], **dots, markerfacecolor=style.PAPER, markeredgewidth=1.5,
                              label="on it, under even odds" if known else "on it, odds not known"))
    return [*handles, Line2D([], [], linestyle="", marker="x", color=style.MUTED, markersize=5, label="beaten")]


def _names(axes, found: Frontier) -> None:
    """Names the frontier's cells with their probabilities; if there are many, an even selection that includes both ends."""
    cells = list(found.points)
    most = MOST_NAMES if len(cells) <= MOST_LARGE else FEWER_NAMES
    if len(cells) > most:
        cells = [cells[round(i * (len(cells) - 1) / (most - 1))] for i in range(most)]
    texts = [short_name(cell) + ("" if math.isnan(cell.probability) else f"\np = {cell.probability:.2f}") for cell in cells]
    others = [(cell.cost, cell.score, 4.0) for cell in found.cells]
    steps = [corner for a, b in zip(found.points, found.points[1:]) for corner in ((a.cost, a.score), (b.cost, a.score), (b.cost, b.score))]
    bars = [[(cell.cost, cell.interval.low), (cell.cost, cell.interval.high)] for cell in found.cells if cell.interval]
    crossed = runs.between([*([steps] if steps else []), *bars])
    labels.place(axes, [(cell.cost, cell.score) for cell in cells], texts, [4.5] * len(cells), markers=others, crossed=crossed, size_pt=8.0)


def short_name(cell: Cell) -> str:
    """``nano/2 masked 640,000`` -> ``nano/2 masked, 640 k``; ``nano/2 masked 640,000 trunk`` -> ``nano/2 masked, 640 k, trunk``."""
    *words, images = cell.name.split(" ")
    kind = ""
    if images in (BRANCH, TRUNK) and words:
        kind, images = f", {images}", words.pop()
    if not images.replace(",", "").isdigit() or images != f"{int(images.replace(',', '')):,}":    # a recipe's hash may be digits alone
        return cell.name
    return f"{' '.join(words)}, {style.short_count(int(images.replace(',', '')))}{kind}"


def _points(found: Frontier, variants: dict[str, str]) -> pd.DataFrame:
    rows = []
    for cell, (rival, chance) in zip(found.cells, rivals.strongest(found)):
        rows.append({"cell": cell.name, "variant": variants[cell.name], "cost": cell.cost, "score": cell.score, "seeds": len(cell.runs),
                     "low": cell.interval.low if cell.interval else math.nan, "high": cell.interval.high if cell.interval else math.nan,
                     "on_frontier": cell.on_frontier, "probability_on_frontier": cell.probability, "strongest_rival": rival,
                     "probability_beaten_by_it": chance})
    return pd.DataFrame(rows)


def _caption(usable: pd.DataFrame, found: Frontier, options: SimpleNamespace) -> str:
    parts = [
        f"{style.metric_name(usable)} against {_cost_words(options)} of every model, variant and evaluated length of "
        "training: no other point beats a point on the step line at the same or a lower cost; crosses are beaten. "
        f"Models: {study_table.models_words(usable['model'])}. " + found.sentence[0].upper()
        + found.sentence[1:] + "." + no_run_left(usable, found),
    ]
    if found.noise.status.ok:
        parts.append(f"p is the probability that a cell truly is on the frontier, given {found.noise.words}; bars are 95 % intervals of the "
                     "score. The CSV has, for each cell, its strongest rival and the probability that the rival truly beats it.")
    else:
        parts.append("Without two seeds of one recipe there is no probability: hollow points may be seed noise.")
    parts.append(f"Seeds per cell: {_counts(found)}. Scores have passport {usable['passport'].iloc[0]}.")
    return " ".join(parts)


def no_run_left(usable: pd.DataFrame, found: Frontier) -> str:
    """A sentence with a space before it on models all of whose runs are outliers; "" if there are none."""
    gone = models_of_only(usable, found.noise.outliers.runs) if found.without else []
    return f" Without them no run of {study_table.models_words(gone)} is left." if gone else ""


def _cost_words(options: SimpleNamespace) -> str:
    words = costs.words(options.cost, options.price)
    return words if options.images_to_make is None else f"{words} and the FLOPs of making {options.images_to_make:,.0f} images"


def _counts(found: Frontier) -> str:
    counts = sorted({len(cell.runs) for cell in found.cells})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


SCRIPT = script.figure(__doc__, draw, options=OPTIONS)
main = SCRIPT.main
