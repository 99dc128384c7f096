"""Score against model size at each budget of training compute, its optimum by parabolas and by a surface, and N*(C).

Approach 2 of Hoffmann et al. (arXiv 2203.15556) beside approach 3: at each budget a parabola of the score in ln N, and the form
E + A N^-alpha + B D^-beta through all points. Where the two disagree, trust the surface: a parabola's vertex is biased.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ditscale.errors import UserError
from ditscale.figures import law_points, panels, script, study_table, style
from ditscale.figures.law_points import LawPoints
from ditscale.scaling.cards import bounds
from ditscale.scaling.fitting import Fit, fit
from ditscale.scaling.intervals import Interval, percentiles
from ditscale.scaling.isoflop import MIN_SIZES, SAME_BUDGET, OptimalLine, Valley, approach2, budgets, resampled_surfaces, valley_of
from ditscale.scaling.status import MIN_RUNS
from ditscale.scaling.vertex import vertex_interval

NAME = "isoflop"
LEAST_SIZES, LEAST_BUDGETS = 3, 2
COLUMNS = ["run", "model", "N", "D", "C", "score"]
STEPS, RESAMPLES, MOST_WARNINGS = 120, 500, 4
NEAR, FAR = 1.6, 5.0                            # times a side of a grid should reach from the optimum: 2 to 4, and a quarter's slack
APART = 0.018                                   # of the axis's length, from a budget to each of its two marks


@dataclass(frozen=True)
class Budget:
    """One budget's points, and its optimum where a parabola has one; ``interval`` is Fieller's."""

    compute: float
    rows: pd.DataFrame
    valley: Valley | None
    interval: Interval | None

    @property
    def sizes(self) -> int:
        return self.rows["N"].nunique()

    @property
    def warning(self) -> str:
        """What is wrong with where the grid of sizes lies; "" where nothing is."""
        name = style.power_of_ten(self.compute)
        if self.valley is None:
            return f"{name}: {self.sizes} sizes, {MIN_SIZES} are needed for a parabola that could be wrong"
        if not self.valley.centred:
            return f"{name}: the optimum is not inside the grid"
        sides = self.valley.size / self.rows["N"].min(), self.rows["N"].max() / self.valley.size
        if min(sides) < NEAR:
            return f"{name}: one side of the grid reaches only {min(sides):.2g} times from the optimum"
        if max(sides) > FAR:
            return f"{name}: the grid reaches {max(sides):.2g} times from the optimum, where a parabola is biased"
        return ""


def draw(table: pd.DataFrame) -> style.Drawing:
    """The figure, its points, its caption and a card with both approaches' numbers.

    Raises:
        UserError: the scores are not comparable, no run has finished, or there are too few budgets or sizes a budget.
    """
    points = law_points.choose(table)
    kept = find_budgets(points)
    rows = pd.concat([budget.rows for budget in kept], ignore_index=True)
    line = approach2(rows["N"], rows["D"], rows["score"], k=points.k)
    surface = fit("chinchilla", {"N": points.rows["N"], "D": points.rows["D"]}, points.rows["score"], points.rows["run"],
                  x_unit={"N": "N", "D": "D"}, y_unit=points.metric)
    optima = _surface_optima(surface, kept, points.k)
    with style.paper():
        figure = Figure(figsize=(style.WIDTH, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
        for axes in (left, right):
            axes.grid(True, which="major")
        colours = style.ramp(len(kept))
        _valleys(left, kept, surface, points, colours)
        _optimal(right, kept, line, surface, optima, points, colours)
        _legend(figure, kept, surface, colours)
    card = {"approach_2": _line_card(kept, line), "approach_3": {**surface.card(), "optima": _optima_card(kept, optima)},
            **points.context, "same_budget_within": SAME_BUDGET}
    return style.Drawing(NAME, figure, rows[[*COLUMNS, "budget"]], _caption(points, kept, line, surface, optima), card)


def find_budgets(points: LawPoints) -> list[Budget]:
    """The budgets that have three sizes or more.

    Raises:
        UserError: there are fewer than two such budgets; says what was found.
    """
    found = [(compute, points.rows.iloc[at]) for compute, at in budgets(points.rows["C"].to_numpy(float))]
    kept = [(compute, own.assign(budget=compute)) for compute, own in found if own["N"].nunique() >= LEAST_SIZES]
    if len(kept) < LEAST_BUDGETS:
        there = ", ".join(f"{style.power_of_ten(compute)} ({study_table.count(own['N'].nunique(), 'size')})" for compute, own in found[:8])
        raise UserError(f"{study_table.count(len(kept), 'budget')} of training FLOPs with {LEAST_SIZES} sizes or more, and {LEAST_BUDGETS} are "
                        f"needed; runs within {100 * SAME_BUDGET:g} % of each other's FLOPs are one budget. There are: {there}"
                        f"{', ...' if len(found) > 8 else ''}. A sweep with `isoflop:` makes such a study")
    return [_budget(compute, own) for compute, own in kept]


def _budget(compute: float, rows: pd.DataFrame) -> Budget:
    if rows["N"].nunique() < MIN_SIZES:
        return Budget(compute, rows, None, None)
    valley = valley_of(rows["N"], rows["score"], compute)
    return Budget(compute, rows, valley, vertex_interval(rows["N"], rows["score"]) if valley.centred else None)


def _surface_optima(surface: Fit, kept: list[Budget], k: float) -> dict:
    """N* of each budget by the surface with intervals over resampled runs, and its exponent's; empty where none stands."""
    if not surface.drawable:
        return {}
    sizes = [float(surface.law.optimal_size(budget.compute, k)) for budget in kept]
    if surface.n_runs < MIN_RUNS:
        return {"sizes": sizes, "intervals": [None] * len(sizes), "exponent": None}
    laws = resampled_surfaces(surface, RESAMPLES, seed=0)
    intervals = [percentiles(np.array([law.optimal_size(budget.compute, k) for law in laws])) for budget in kept]
    return {"sizes": sizes, "intervals": intervals, "exponent": percentiles(np.array([law.a for law in laws]))}


def _valleys(axes, kept: list[Budget], surface: Fit, points: LawPoints, colours: list[str]) -> None:
    shown = []
    for budget, colour in zip(kept, colours):
        own = budget.rows
        axes.plot(own["N"], own["score"], linestyle="", marker="o", markersize=4.5, color=colour, markeredgecolor=style.PAPER,
                  markeredgewidth=0.4, zorder=3)
        shown += list(own["score"])
        at = np.geomspace(own["N"].min(), own["N"].max(), STEPS)
        if budget.valley is not None:
            middle = np.log(own["N"]).mean()
            curve = np.polyval(np.polyfit(np.log(own["N"]) - middle, own["score"], 2), np.log(at) - middle)
            axes.plot(at, curve, color=colour, linewidth=1.5, zorder=2)
            if budget.valley.centred:
                axes.plot(budget.valley.size, budget.valley.score, marker="D", markersize=6.5, color=colour,
                          markeredgecolor=style.INK, zorder=4)
        if surface.drawable:
            curve = surface.law.evaluate({"N": at, "D": budget.compute / (points.k * at)})
            axes.plot(at, curve, color=colour, linewidth=1.2, linestyle=(0, (3, 2)), zorder=2)
    panels.flops_axis(axes, [n for budget in kept for n in budget.rows["N"]], points.size_label.replace(" (", "\n("))
    panels.score_axis([axes], f"{points.metric} (lower is better)", shown)


def _optimal(axes, kept: list[Budget], line: OptimalLine | None, surface: Fit, optima: dict, points: LawPoints,
             colours: list[str]) -> None:
    """N* against the budget, by parabolas a little left of it and by the surface a little right, so that intervals are seen."""
    computes = np.array([budget.compute for budget in kept])
    limits, shown, text = style.log_limits(computes, pad=0.12), [], []
    span, apart = np.array([computes.min(), computes.max()]), (limits[1] / limits[0]) ** APART
    for budget, colour in zip(kept, colours):
        if budget.valley is not None and budget.valley.centred:
            shown += _mark(axes, budget.compute / apart, budget.valley.size, budget.interval, "D", colour, colour)
    if line is not None:
        axes.plot(span, line.size(span), color=style.INK, linewidth=1.4, zorder=2)
        text.append(f"parabolas: N* ∝ C$^{{{line.exponent:.2f}}}$")
    if optima:
        for budget, size, interval, colour in zip(kept, optima["sizes"], optima["intervals"], colours):
            shown += _mark(axes, budget.compute * apart, size, interval, "o", colour, style.PAPER)
        axes.plot(span, surface.law.optimal_size(span, points.k), color=style.INK, linewidth=1.4, linestyle=(0, (3, 2)), zorder=2)
        text.append(f"surface: N* ∝ C$^{{{surface.law.a:.2f}}}$")
    axes.text(0.04, 0.97, "\n".join(text) or "no optimum inside two grids", transform=axes.transAxes, fontsize=9, va="top", linespacing=1.5,
              bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 1.5}, zorder=6)
    panels.flops_axis(axes, computes, "Training compute\n(FLOPs)")
    axes.set_xlim(limits)
    low, high = style.log_limits(shown or [n for budget in kept for n in budget.rows["N"]])
    axes.set(yscale="log", ylim=(low, high * (high / low) ** 0.22), ylabel=points.size_label.replace("Model size N", "Optimal N*").replace("Size N", "Optimal N*"))
    style.power_ticks(axes.yaxis, *axes.get_ylim())


def _mark(axes, x: float, size: float, interval: Interval | None, marker: str, colour: str, fill: str) -> list[float]:
    """One optimum with its interval; returns what the axis must hold."""
    if interval is not None:
        axes.plot([x, x], [interval.low, interval.high], color=style.INK, linewidth=1.1, zorder=3, solid_capstyle="butt")
    axes.plot(x, size, marker=marker, markersize=5.0, color=fill, markeredgecolor=style.INK if fill != style.PAPER else colour,
              markeredgewidth=0.9 if fill != style.PAPER else 1.5, zorder=4)
    return [size] if interval is None else [size, interval.low, interval.high]


def _legend(figure, kept: list[Budget], surface: Fit, colours: list[str]) -> None:
    named = range(len(kept)) if len(kept) <= 6 else (0, len(kept) // 2, len(kept) - 1)
    handles = [Line2D([], [], color=colours[i], marker="o", markersize=4.5, label=f"{style.power_of_ten(kept[i].compute)} FLOPs")
               for i in named]
    first = len(handles)
    handles.append(Line2D([], [], color=style.INK, marker="D", markersize=5.5, label="parabola, vertex"))
    if surface.drawable:
        handles.append(Line2D([], [], color=style.INK, linestyle=(0, (3, 2)), marker="o", markerfacecolor=style.PAPER,
                              label="surface, optimum"))
    panels.legend(figure, handles, columns=3, break_after=first)


def _caption(points: LawPoints, kept: list[Budget], line: OptimalLine | None, surface: Fit, optima: dict) -> str:
    inside = sum(budget.valley is not None and budget.valley.centred for budget in kept)
    warnings = [budget.warning for budget in kept if budget.warning]
    more = f"; and {len(warnings) - MOST_WARNINGS} more, in the card" if len(warnings) > MOST_WARNINGS else ""
    parts = [
        f"{points.metric} against model size at {study_table.count(len(kept), 'budget')} of training compute, C = {points.k:g} N D; runs "
        f"within {100 * SAME_BUDGET:g} % of each other's FLOPs are one budget; N is {points.context['N']}. Left: a parabola in ln N a budget "
        "(solid) and the surface's cut (dashed). Right: the parabolas' vertices with Fieller's 95 % intervals, the surface's optima with "
        "percentiles over resampled runs.",
        f"Centre check: {inside} of {len(kept)} budgets have their optimum inside the grid"
        + (f"; {'; '.join(warnings[:MOST_WARNINGS])}{more}." if warnings else ", 2 to 4 times from both ends."),
        f"Parabolas give N* ∝ C^{line.exponent:.3f}." if line else "Parabolas give no N*(C): fewer than two optima lie inside.",
    ]
    if optima:
        between = optima["exponent"]
        over = f" (95 % {between.low:.3f} to {between.high:.3f} over resampled runs)" if between else ""
        parts.append(f"The surface gives N* ∝ C^{surface.law.a:.3f}{over}"
                     + ("." if surface.status.ok else f", but {surface.words}."))
        if line:
            last = kept[-1].compute
            off = float(line.size(last)) / optima["sizes"][-1] - 1.0
            parts.append(f"At {style.power_of_ten(last)} FLOPs the parabolas' N* is {style.signed(100 * off, 1)} % off the surface's: their "
                         "vertices are biased where the two exponents differ.")
    else:
        parts.append(f"No surface is drawn: {surface.words}.")
    if surface.outliers.found:
        parts.append(f"{surface.outlier_sentence}.")
    return " ".join(parts) + points.note


def _line_card(kept: list[Budget], line: OptimalLine | None) -> dict:
    return {"coefficient": line.coefficient if line else None, "exponent": line.exponent if line else None, "budgets": [{
        "compute": budget.compute, "sizes": budget.sizes, "optimum": budget.valley.size if budget.valley else None,
        "inside_the_grid": bool(budget.valley and budget.valley.centred), **bounds(budget.interval), "interval": "Fieller",
        "warning": budget.warning or None} for budget in kept]}


def _optima_card(kept: list[Budget], optima: dict) -> list[dict]:
    return [{"compute": budget.compute, "optimum": size, **bounds(interval), "interval": "percentiles over resampled runs"}
            for budget, size, interval in zip(kept, optima.get("sizes", ()), optima.get("intervals", ()))]


def main(argv: list[str] | None = None) -> int:
    return script.run_figure(__doc__, draw, argv, rows=law_points.read)
