"""Methods compared with the plain baseline, or with `--over METHOD`, at equal training FLOPs or, with `--at images`, at equal images: validation loss
and score, with intervals over seeds.

A method is a variant with its settings: another variant, an auxiliary loss, a switch of the backbone, an optimizer. Writes the figure,
methods.csv, and methods.md with the differences at equal images and the compute multipliers.
"""

import textwrap
from types import SimpleNamespace

import click
import pandas as pd
from matplotlib.ticker import MaxNLocator

from ditscale.evaluation.metrics.table import LOSS
from ditscale.figures.kit import method_table, panels, script, study_table, style
from ditscale.objectives import BASELINE
from ditscale.scaling.differences import REAL, Difference

NAME = "methods"
LEAST, MOST = -60, 100                                                         # percent: the frame's ends, at most
WIDTH = 44                                                                     # characters of a label's line
BY_CHANCE = 0.05                                                               # of 95 % intervals that miss zero where there is no difference


def draw(table: pd.DataFrame, options: SimpleNamespace = SimpleNamespace(over="", at="flops")) -> style.Drawing:
    """The figure, its points, its caption, and methods.md: a row a method, with the compute multipliers.

    Raises:
        UserError: no model has the reference and another method, or scores are not comparable.
    """
    methods = method_table.compare(table, options.over)
    against = "the baseline" if methods[0].method == BASELINE else methods[0].label
    shown = _shown(methods, options.at)
    metrics = [(index, result.metric) for index, result in enumerate(methods[0].results) if any(own[index] for _, own in shown)]
    several = len({one.model for one in methods}) > 1
    names = ["\n".join(textwrap.wrap(_name(one, several), WIDTH)) for one, _ in reversed(shown)]
    with style.paper():
        figure, [row] = panels.grid(1, max(1, len(metrics)), row_height=1.2 + sum(0.18 + 0.14 * (1 + name.count("\n")) for name in names), sharey=True)
        for axes, (index, metric) in zip(row, metrics):
            axes.axvline(0, color=style.MUTED, linewidth=0.9)
            for place, (_, own) in enumerate(reversed(shown)):
                _point(axes, own[index], place)
            axes.set_xlim(*_limits(axes.get_xlim()))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(style.METRIC_NAMES.get(metric, metric), fontsize=10)
            axes.grid(True, axis="x")
        figure.supxlabel(f"Against {against}, %", fontsize=10)
        row[0].set_yticks(range(len(shown)), names)
        row[0].set_ylim(-0.6, len(shown) - 0.4)
    return style.Drawing(NAME, figure, method_table.as_frame(methods), _caption(methods, shown, several, against, options.at),
                         tables={f"{NAME}.md": method_table.markdown(methods)})


def _shown(methods: list[method_table.Method], at: str) -> list[tuple[method_table.Method, list[Difference | None]]]:
    """The methods that are compared by a metric or more, with their difference by each."""
    found = [(one, [result.difference if at == "flops" else result.images_difference for result in one.results]) for one in methods]
    return [(one, own) for one, own in found if any(own)]


def _point(axes, difference: Difference | None, place: int) -> None:
    if difference is None:
        return
    if difference.interval:
        axes.plot([100 * difference.interval.low, 100 * difference.interval.high], [place, place], color=style.INK, linewidth=1.4)
    beyond = 100 * difference.change > MOST
    axes.plot([min(100 * difference.change, MOST)], [place], marker=">" if beyond else "o", markersize=6, color=style.INK, clip_on=not beyond,
              markerfacecolor=style.INK if difference.verdict == REAL else style.PAPER)


def _limits(ends: tuple[float, float]) -> tuple[float, float]:
    """One method that diverged would press all others into a line."""
    return max(ends[0], LEAST), min(ends[1], MOST)


def _name(one: method_table.Method, with_model: bool) -> str:
    return f"{study_table.short_name(one.model)} {one.label}" if with_model else one.label


def _caption(methods: list[method_table.Method], shown: list[tuple[method_table.Method, list[Difference | None]]], several: bool, against: str,
             at: str) -> str:
    models = study_table.models_words(one.model for one in methods)
    compared = sum(difference is not None for _, own in shown for difference in own)
    apart = [f"{_name(one, several)}: {style.METRIC_NAMES.get(result.metric, result.metric)} {result.why}"
             for one in methods for result in one.results if result.why]
    cost = ", ".join(f"{_name(one, several)} {one.flops_ratio:.3g}" for one, _ in shown)
    loss = " Left of the line is better." if all(result.metric == LOSS or result.metric.startswith(("fid", "fd_")) for result in methods[0].results) else ""
    far = [f"{_name(one, several)} {difference.change:+.0%}" for one, own in shown for difference in own if difference and 100 * difference.change > MOST]
    beyond = f" Beyond the frame (triangles): {', '.join(far)}." if far else ""
    where = "training FLOPs" if at == "flops" else "images seen"
    return (f"Methods of {models} at equal {where}, relative to {against.replace('the baseline', 'the plain baseline')}. Lines are Welch's 95 % "
            f"intervals over seeds, cut at {LEAST} and +{MOST} %; a filled point is REAL, an open one INCONCLUSIVE.{loss} Of {compared} comparisons "
            f"{BY_CHANCE * compared:.1f} would be REAL by chance.{beyond} Training FLOPs per image over the reference's: {cost}."
            + (f" Not compared: {'; '.join(apart)}." if apart else ""))


OVER = {"default": "", "metavar": "METHOD", "help": "Compare with this method: its variant and settings as in column `method`, those that tell it apart.  "
                                                    "[default: the plain baseline]"}
AT = {"type": click.Choice(["flops", "images"]), "default": "flops", "show_default": True, "help": "What is equal: training FLOPs, or images seen."}
SCRIPT = script.figure(__doc__, draw, options={"over": OVER, "at": AT}, every_metric=True)
main = SCRIPT.main
