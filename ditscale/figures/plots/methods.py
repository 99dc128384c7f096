"""Methods compared with the plain baseline, or with `--over METHOD`, at equal training FLOPs: validation loss and score, with intervals over seeds.

A method is a variant with its settings: another variant, an auxiliary loss, a switch of the backbone, an optimizer. Writes the figure,
methods.csv, and methods.md with the differences at equal images and the compute multipliers.
"""

from types import SimpleNamespace

import pandas as pd

from ditscale.evaluation.metrics.table import LOSS
from ditscale.figures.kit import method_table, panels, script, study_table, style
from ditscale.objectives import BASELINE

NAME = "methods"
BY_CHANCE = 0.05                                                               # of 95 % intervals that miss zero where there is no difference


def draw(table: pd.DataFrame, options: SimpleNamespace = SimpleNamespace(over="")) -> style.Drawing:
    """The figure, its points, its caption, and methods.md: a row a method, with the compute multipliers.

    Raises:
        UserError: no model has the reference and another method, or scores are not comparable.
    """
    methods = method_table.compare(table, options.over)
    against = "the baseline" if methods[0].method == BASELINE else methods[0].label
    shown = [one for one in methods if any(result.change is not None for result in one.results)]
    metrics = [result.metric for result in methods[0].results]
    several = len({one.model for one in methods}) > 1
    with style.paper():
        figure, [row] = panels.grid(1, len(metrics), row_height=1.2 + 0.3 * len(shown), sharey=True)
        for axes, index in zip(row, range(len(metrics))):
            axes.axvline(0, color=style.MUTED, linewidth=0.9)
            for place, one in enumerate(reversed(shown)):
                _point(axes, one.results[index], place)
            axes.set_title(style.METRIC_NAMES.get(metrics[index], metrics[index]), fontsize=10)
            axes.set_xlabel(f"Against {against}, %")
            axes.grid(True, axis="x")
        row[0].set_yticks(range(len(shown)), [_name(one, several) for one in reversed(shown)])
        row[0].set_ylim(-0.6, len(shown) - 0.4)
    return style.Drawing(NAME, figure, method_table.as_frame(methods), _caption(methods, shown, several, against),
                         tables={f"{NAME}.md": method_table.markdown(methods)})


def _point(axes, result: method_table.Result, place: int) -> None:
    if result.change is None:
        return
    interval = result.standing.difference.interval
    if interval:
        axes.plot([100 * interval.low, 100 * interval.high], [place, place], color=style.INK, linewidth=1.4)
    axes.plot([100 * result.change], [place], marker="o", markersize=6, color=style.INK, markerfacecolor=style.INK if result.is_real else style.PAPER)


def _name(one: method_table.Method, with_model: bool) -> str:
    return f"{study_table.short_name(one.model)} {one.label}" if with_model else one.label


def _caption(methods: list[method_table.Method], shown: list[method_table.Method], several: bool, against: str) -> str:
    models = study_table.models_words(one.model for one in methods)
    compared = sum(result.change is not None for one in shown for result in one.results)
    apart = [f"{_name(one, several)}: {style.METRIC_NAMES.get(result.metric, result.metric)} {result.why}"
             for one in methods for result in one.results if result.why]
    cost = ", ".join(f"{_name(one, several)} {one.flops_ratio:.3g}" for one in shown)
    loss = " Left of the line is better." if all(result.metric == LOSS or result.metric.startswith(("fid", "fd_")) for result in methods[0].results) else ""
    return (f"Methods of {models} at equal training FLOPs, relative to {against.replace('the baseline', 'the plain baseline')}. Lines are Welch's 95 % "
            f"intervals over seeds; a filled point is REAL, an open one INCONCLUSIVE.{loss} Of {compared} comparisons {BY_CHANCE * compared:.1f} would be "
            f"REAL by chance. Training FLOPs per image over the reference's: {cost}." + (f" Not compared: {'; '.join(apart)}." if apart else ""))


OVER = {"default": "", "metavar": "METHOD", "help": "Compare with this method: its variant and settings as in column `method`, those that tell it apart.  "
                                                    "[default: the plain baseline]"}
SCRIPT = script.figure(__doc__, draw, options={"over": OVER}, every_metric=True)
main = SCRIPT.main
