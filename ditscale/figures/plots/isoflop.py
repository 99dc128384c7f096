"""Score against model size at each budget of training compute, the optimal size by curves and by a surface, and N*(C).

Approaches 2 and 3 of Hoffmann et al. (arXiv 2203.15556): at each budget a parabola of the score in ln N, or Akima's curve
through the points, and the form E + A N^-alpha + B D^-beta through all points. If a parabola and the surface disagree, trust the
surface: a parabola's vertex is biased. Akima's curve has little bias but follows noise.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import click
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ditscale.errors import UserError
from ditscale.figures.kit import deployed_optima, isoflop_words as words, law_points, panels, script, study_table, style
from ditscale.figures.kit.deployed_optima import DeployedOptima
from ditscale.figures.kit.law_points import LawPoints
from ditscale.scaling.approaches import METHODS, MIN_SIZES, OptimalLine, Valley, akima_curve, approach2, resampled_surfaces, valley_of, vertex_interval
from ditscale.scaling.budgets import WIDTH, Dropped, find_budgets
from ditscale.scaling.fitting import Fit, fit
from ditscale.scaling.interval import Interval, percentiles
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.spending import Spending
from ditscale.scaling.status import MIN_RUNS

NAME = "isoflop"
LEAST_SIZES, LEAST_BUDGETS = 3, 2
COLUMNS = ["run", "model", "N", "D", "C", "score"]
STEPS, RESAMPLES = 120, 500
NEAR, FAR = 1.6, 5.0                            # how many times from the optimum each side of a grid should reach: 2 to 4, with 25 % slack
APART = 0.018                                   # share of the axis's length, from a budget to each of its two marks


def _budget_list(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"'{text}' is not a list of FLOPs; give numbers, for example 1e18,3e18") from None


OPTIONS = {
    "curve": {"type": click.Choice(METHODS), "default": METHODS[0], "show_default": True, "help": "The curve drawn through a budget's points."},
    "budgets": {"type": _budget_list, "metavar": "C[,C]",
                "help": "The budgets in FLOPs: each run goes to the nearest within 10 %.  [default: the column budget, otherwise clusters]"},
    "width": {"type": float, "default": 100 * WIDTH, "show_default": True, "metavar": "PERCENT",
              "help": "For clusters, in percent: how far the largest compute of a budget may exceed its smallest."},
    **deployed_optima.OPTIONS,
}
PLAIN = SimpleNamespace(**{name.replace("-", "_"): option.get("default") for name, option in OPTIONS.items()})


@dataclass(frozen=True)
class Budget:
    """One budget's points, and its optimum if the curve has one; ``interval`` is Fieller's, for a parabola only."""

    compute: float
    rows: pd.DataFrame
    spread: float
    valley: Valley | None
    interval: Interval | None

    @property
    def sizes(self) -> int:
        return self.rows["N"].nunique()

    @property
    def warning(self) -> str:
        """What is wrong with the position of the grid of sizes, or with the budget; "" if nothing."""
        name = style.power_of_ten(self.compute)
        if self.valley is None:
            return f"{name}: {study_table.count(self.sizes, 'size')}; a curve needs {MIN_SIZES}"
        if not self.valley.centered:
            return f"{name}: the optimum is not inside the grid"
        if self.spread > 1 + WIDTH * 1.001:
            return f"{name}: its runs' FLOPs differ by {self.spread:.3g} times"
        sides = self.valley.size / self.rows["N"].min(), self.rows["N"].max() / self.valley.size
        if min(sides) < NEAR:
            return f"{name}: one side of the grid reaches only {min(sides):.2g} times from the optimum"
        if max(sides) > FAR:
            return f"{name}: the grid reaches {max(sides):.2g} times from the optimum, where a parabola is biased"
        return ""


def draw(table: pd.DataFrame, options=PLAIN) -> style.Drawing:
    """The figure, its points (with a reason in ``left_out`` if they are in no curve), its caption and a card with the numbers of all approaches.

    Raises:
        UserError: the scores are not comparable, no run has finished, there are too few budgets or too few sizes per budget, or a budget is not positive.
    """
    points = law_points.choose(table)
    kept, dropped, rest = find(points, options)
    sampling = deployed_optima.forward_passes(points, options)
    lines = {method: approach2(points.rows["N"], points.rows["D"], points.rows["score"], method=method, compute=points.rows["C"],
                               **binning(points, options)) for method in METHODS}
    surface = fit("chinchilla", {"N": points.rows["N"], "D": points.rows["D"]}, points.rows["score"], points.rows["run"],
                  x_unit={"N": "N", "D": "D"}, y_unit=points.metric)
    optima = _surface_optima(surface, kept, points.spending)
    making = deployed_optima.find(points, surface, [budget.compute for budget in kept], options, sampling, RESAMPLES)
    with style.paper():
        figure = Figure(figsize=(style.WIDTH, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
        for axes in (left, right):
            axes.grid(True, which="major")
        colors = style.ramp(len(kept))
        _valleys(left, kept, surface, points, colors, options.curve)
        _optimal(right, kept, lines[options.curve], surface, optima, making, points, colors)
        _legend(figure, kept, surface, colors, options.curve)
    card, caption = words.card(kept, lines, dropped, surface, optima, points, options), words.caption(points, kept, lines, dropped, surface, optima, options)
    if making:
        data = [float(points.spending.data(size, budget.compute)) for size, budget in zip(optima["sizes"], kept)]
        caption, card = f"{caption} {making.sentence(optima['sizes'], data)}", {**card, "with_sampling": making.card()}
    rows = pd.concat([*(budget.rows.assign(budget=budget.compute, left_out="") for budget in kept), rest], ignore_index=True)
    return style.Drawing(NAME, figure, rows[[*COLUMNS, "budget", "left_out"]], caption, card)


def binning(points: LawPoints, options) -> dict:
    """How points are grouped into budgets: by those of the command line, else by the column, else by width."""
    if options.budgets:
        return {"budgets": options.budgets}
    if points.states_budgets:
        return {"budget": points.rows[law_points.BUDGET]}
    return {"width": options.width / 100}


def find(points: LawPoints, options=PLAIN) -> tuple[list[Budget], list[Dropped], pd.DataFrame]:
    """The budgets with three sizes or more, the dropped ones, and the rows with columns ``budget`` and ``left_out``.

    Raises:
        UserError: there are fewer than two of these budgets; the message lists what was found.
    """
    rows = points.rows
    found, dropped = find_budgets(rows["C"], **binning(points, options))
    in_one = np.concatenate([own.at for own in found]) if found else np.array([], int)
    outside = rows.drop(index=rows.index[in_one])
    rest = [outside.assign(budget=np.nan, left_out=dropped[0].why)] if len(outside) else []
    kept = []
    for own in found:
        of_budget = rows.iloc[own.at]
        sizes = of_budget["N"].nunique()
        if sizes >= LEAST_SIZES:
            kept.append(_budget(own.compute, of_budget, own.spread, options.curve))
            continue
        dropped.append(Dropped(own.compute, len(own.at), sizes, f"fewer than {LEAST_SIZES} sizes"))
        rest.append(of_budget.assign(budget=own.compute, left_out=dropped[-1].why))
    if len(kept) < LEAST_BUDGETS:
        there = ", ".join(f"{style.power_of_ten(own.compute)} ({study_table.count(rows.iloc[own.at]['N'].nunique(), 'size')})"
                          for own in found[:8]) + (", ..." if len(found) > 8 else "")
        raise UserError(f"{study_table.count(len(kept), 'budget')} of training FLOPs with {LEAST_SIZES} sizes or more; {LEAST_BUDGETS} are "
                        f"needed; {words.binned(points, options)}. Found: {there or 'none'}. A sweep with `isoflop:` makes a study with budgets; "
                        "--budgets and --width group other runs")
    return kept, dropped, pd.concat(rest) if rest else rows.iloc[:0].assign(budget=np.nan, left_out="")


def _budget(compute: float, rows: pd.DataFrame, spread: float, curve: str) -> Budget:
    if rows["N"].nunique() < MIN_SIZES:
        return Budget(compute, rows, spread, None, None)
    valley = valley_of(rows["N"], rows["score"], compute, curve, spread)
    interval = vertex_interval(rows["N"], rows["score"]) if valley.centered and curve == "parabola" else None
    return Budget(compute, rows, spread, valley, interval)


def _surface_optima(surface: Fit, kept: list[Budget], rule: Spending) -> dict:
    """N* of each budget by the surface, and its exponent, with intervals over resampled runs; empty if there is no usable surface."""
    law = surface.law
    if not isinstance(law, Chinchilla) or not surface.drawable or not rule.usable:
        return {}
    optima = {"sizes": [float(rule.optimal_size(law, budget.compute)) for budget in kept], "exponent": rule.exponent(law)}
    if surface.n_runs < MIN_RUNS:
        return {**optima, "intervals": [None] * len(kept), "exponent_interval": None}
    laws = resampled_surfaces(surface, RESAMPLES, seed=0)
    intervals = [percentiles(np.array([rule.optimal_size(law, budget.compute) for law in laws])) for budget in kept]
    return {**optima, "intervals": intervals, "exponent_interval": percentiles(np.array([rule.exponent(law) for law in laws]))}


def _valleys(axes, kept: list[Budget], surface: Fit, points: LawPoints, colors: list[str], curve: str) -> None:
    shown = []
    for budget, color in zip(kept, colors):
        own = budget.rows
        axes.plot(own["N"], own["score"], linestyle="", marker="o", markersize=4.5, color=color, markeredgecolor=style.PAPER,
                  markeredgewidth=0.4, zorder=3)
        shown += list(own["score"])
        at = np.geomspace(own["N"].min(), own["N"].max(), STEPS)
        if budget.valley is not None:
            axes.plot(at, _through(own, at, curve), color=color, linewidth=1.5, zorder=2)
            if budget.valley.centered:
                axes.plot(budget.valley.size, budget.valley.score, marker="D", markersize=6.5, color=color,
                          markeredgecolor=style.INK, zorder=4)
        if surface.drawable and points.spending.usable:
            cut = surface.law.evaluate({"N": at, "D": points.spending.data(at, budget.compute)})
            axes.plot(at, cut, color=color, linewidth=1.2, linestyle=(0, (3, 2)), zorder=2)
    panels.flops_axis(axes, [n for budget in kept for n in budget.rows["N"]], points.size_label.replace(" (", "\n("))
    panels.score_axis([axes], f"{points.metric} (lower is better)", shown)


def _through(own: pd.DataFrame, at: np.ndarray, curve: str) -> np.ndarray:
    """The score on a budget's curve at these sizes."""
    if curve == "akima":
        ends = np.log(own["N"].min()), np.log(own["N"].max())
        return np.exp(akima_curve(own["N"], own["score"])(np.clip(np.log(at), *ends)))
    middle = np.log(own["N"]).mean()
    return np.polyval(np.polyfit(np.log(own["N"]) - middle, own["score"], 2), np.log(at) - middle)


def _optimal(axes, kept: list[Budget], line: OptimalLine, surface: Fit, optima: dict, making: DeployedOptima | None, points: LawPoints,
             colors: list[str]) -> None:
    """N* against the budget: from the curves slightly to the left and from the surface slightly to the right, so that both intervals show."""
    computes = np.array([budget.compute for budget in kept])
    limits, shown, text = style.log_limits(computes, pad=0.12), [], []
    span, apart = np.array([computes.min(), computes.max()]), (limits[1] / limits[0]) ** APART
    for budget, color in zip(kept, colors):
        if budget.valley is not None and budget.valley.centered:
            shown += _mark(axes, budget.compute / apart, budget.valley.size, budget.interval, "D", color, color)
    if line.ok:
        axes.plot(span, line.size(span), color=style.INK, linewidth=1.4, zorder=2)
        text.append(f"{words.NAMES[line.method]}: N* ∝ C$^{{{line.exponent:.2f}}}$")
    if optima and isinstance(surface.law, Chinchilla):
        for budget, size, interval, color in zip(kept, optima["sizes"], optima["intervals"], colors):
            shown += _mark(axes, budget.compute * apart, size, interval, "o", color, style.PAPER)
        axes.plot(span, points.spending.optimal_size(surface.law, span), color=style.INK, linewidth=1.4, linestyle=(0, (3, 2)), zorder=2)
        text.append(f"surface: N* ∝ C$^{{{optima['exponent']:.2f}}}$")
        if making:
            shown += making.draw(axes, surface.law, span)
            text.append(f"dotted: and {style.short_count(making.images)} images")
    axes.text(0.04, 0.97, "\n".join(text) or "no optimum inside two grids", transform=axes.transAxes, fontsize=9, va="top", linespacing=1.5,
              bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 1.5}, zorder=6)
    panels.flops_axis(axes, computes, "Training compute\n(FLOPs)")
    axes.set_xlim(limits)
    low, high = style.log_limits(shown or [n for budget in kept for n in budget.rows["N"]])
    axes.set(yscale="log", ylim=(low, high * (high / low) ** 0.22),
             ylabel=points.size_label.replace("Model size N", "Optimal N*").replace("Size N", "Optimal N*"))
    style.power_ticks(axes.yaxis, *axes.get_ylim())


def _mark(axes, x: float, size: float, interval: Interval | None, marker: str, color: str, fill: str) -> list[float]:
    """Draws one optimum with its interval; returns the values that the axis must include."""
    if interval is not None:
        axes.plot([x, x], [interval.low, interval.high], color=style.INK, linewidth=1.1, zorder=3, solid_capstyle="butt")
    axes.plot(x, size, marker=marker, markersize=5.0, color=fill, markeredgecolor=style.INK if fill != style.PAPER else color,
              markeredgewidth=0.9 if fill != style.PAPER else 1.5, zorder=4)
    return [size] if interval is None else [size, interval.low, interval.high]


def _legend(figure, kept: list[Budget], surface: Fit, colors: list[str], curve: str) -> None:
    named = range(len(kept)) if len(kept) <= 6 else (0, len(kept) // 2, len(kept) - 1)
    handles = [Line2D([], [], color=colors[i], marker="o", markersize=4.5, label=f"{style.power_of_ten(kept[i].compute)} FLOPs")
               for i in named]
    first = len(handles)
    handles.append(Line2D([], [], color=style.INK, marker="D", markersize=5.5, label="parabola, vertex" if curve == "parabola" else "Akima, lowest"))
    if surface.drawable:
        handles.append(Line2D([], [], color=style.INK, linestyle=(0, (3, 2)), marker="o", markerfacecolor=style.PAPER,
                              label="surface, optimum"))
    panels.legend(figure, handles, columns=3, break_after=first)


SCRIPT = script.figure(__doc__, draw, options=OPTIONS, rows=law_points.read)
main = SCRIPT.main
