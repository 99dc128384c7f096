"""The cost-score frontier: models, variants and training lengths that no other beats in both cost and score, with probabilities.

A cell is one model, variant and number of images, scored as the geometric mean over its seeds. Filled points are on the frontier.
"""

import math
from types import SimpleNamespace
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from ditscale.figures.kit import costs, labels, panels, runs, script, study_table, style, variant_table
from ditscale.scaling import rivals
from ditscale.scaling.frontier import Cell, Frontier
from ditscale.studies.table.comparable import trunks
from ditscale.studies.table.study import Study

NAME = "frontier"
ONE_OF_EACH = variant_table.SHARED
MOST_NAMES, FEWER_NAMES = 7, 5          # on the frontier; the second where there are more than MOST_LARGE cells
MOST_LARGE = 40                         # cells on the frontier that are drawn with large points


def draw(table: pd.DataFrame, options: SimpleNamespace) -> style.Drawing:
    """The figure with one point per cell, its caption and the frontier's card.

    Raises:
        UserError: the scores are not comparable, the cost is not known, or ``options.price`` is missing.
    """
    study_table.require_columns(table, ("recipe",))
    usable, left_out = study_table.scored(table, ONE_OF_EACH)
    usable, unknown = costs.known(usable, options.cost)
    costs.values(usable, options.cost, options.price)
    found = Study(options.study, usable).frontier(options.cost, price=options.price)
    variants = _variants(usable, found)
    with style.paper():
        figure, axes = style.new_axes(height=4.9)
        _cells(axes, found, variants)
        costs.axis(axes, [cell.cost for cell in found.cells], options.cost)
        edges = [end for cell in found.cells for end in ((cell.interval.low, cell.interval.high) if cell.interval else (cell.score,))]
        panels.score_axis([axes], style.score_label(usable), edges)
        panels.legend(figure, panels.variant_handles(usable) + _handles(found), columns=3)
        _names(axes, found)
    return style.Drawing(NAME, figure, _points(found, variants), _caption(usable, found, options) + left_out + unknown, found.card())


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
    """``nano/2 masked 640,000`` -> ``nano/2 masked, 640 k``."""
    *words, images = cell.name.split(" ")
    if not images.replace(",", "").isdigit() or images != f"{int(images.replace(',', '')):,}":    # a recipe's hash may be digits alone
        return cell.name
    return f"{' '.join(words)}, {style.short_count(int(images.replace(',', '')))}"


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
        f"{style.metric_name(usable)} against {costs.words(options.cost, options.price)} of every model, variant and evaluated length of "
        "training: no other point beats a point on the step line at the same or a lower cost; crosses are beaten. " + found.sentence[0].upper()
        + found.sentence[1:] + ".",
    ]
    if found.noise.status.ok:
        parts.append(f"p is the probability that a cell truly is on the frontier, given {found.noise.words}; bars are 95 % intervals of the "
                     "score. The CSV has, for each cell, its strongest rival and the probability that the rival truly beats it.")
    else:
        parts.append("Without two seeds of one recipe there is no probability: hollow points may be seed noise.")
    parts.append(f"Seeds per cell: {_counts(found)}. Scores have passport {usable['passport'].iloc[0]}.")
    return " ".join(parts)


def _counts(found: Frontier) -> str:
    counts = sorted({len(cell.runs) for cell in found.cells})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


SCRIPT = script.figure(__doc__, draw, options=costs.OPTIONS)
main = SCRIPT.main
