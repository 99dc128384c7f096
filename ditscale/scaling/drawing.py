"""Draws frontiers and multipliers on given axes. Matplotlib is not imported here.

Colors differ in lightness first, and each kind has its own marker or line, so they work in grayscale.
"""

import math
import textwrap

import numpy as np

INK, MUTED, VARIANT, BAND = "#1c1f24", "#636974", "#3a8ac8", "#9aa3af"
TEXT_WIDTH = 44                # letters per line in axes of half a page


def draw_frontier(ax, found) -> None:
    """Draws dominated cells as crosses and frontier cells as dots on a step line; open dots have a probability below 0.5."""
    ax.set(xscale="log", yscale="log", xlabel=found.cost_unit, ylabel=_directed(found.score_unit, found.lower_is_better))
    if not found.cells:
        _say(ax, found.words)
        return
    for cell in found.cells:
        doubtful = cell.on_frontier and cell.probability < 0.5
        if cell.interval:
            ax.plot([cell.cost] * 2, [cell.interval.low, cell.interval.high], color=INK if cell.on_frontier else BAND, linewidth=1.0,
                    zorder=2)
        ax.plot(cell.cost, cell.score, marker="o" if cell.on_frontier else "x", markersize=6 if cell.on_frontier else 4.5, linestyle="",
                color=INK if cell.on_frontier else MUTED, markerfacecolor="white" if doubtful else INK, zorder=3)
    costs, scores = [cell.cost for cell in found.points], [cell.score for cell in found.points]
    end = max(cell.cost for cell in found.cells)
    edges = [value for cell in found.cells for value in ((cell.interval.low, cell.interval.high) if cell.interval else (cell.score,))]
    _plain_ticks(ax.yaxis, min(edges), max(edges))
    _cost_ticks(ax, found.cells[0].cost, end)
    ax.step([*costs, end], [*scores, scores[-1]], where="post", color=INK, linewidth=1.3, zorder=1)


def draw_multiplier(ax, found) -> None:
    """Draws a point and its interval for each target, and the multiplier over the whole range as a thin line.

    A verdict on the whole range is a line with its band; a verdict on parts has both for each part that is REAL, over its scores.
    """
    ax.set(xscale="log", yscale="log", xlabel=found.score_unit, ylabel=f"{found.cost_unit} of {found.baseline} / of {found.variant}")
    usable = [at for at in found.targets if at.status.ok]
    if not usable:
        _say(ax, found.verdict_sentence)
        return
    ax.axhline(1.0, color=MUTED, linestyle=":", linewidth=1.2, zorder=1)
    parts = found.course.real_parts if found.in_parts else ()
    if parts:
        for part in parts:
            ax.plot(part.scores, [part.mean.value] * 2, color=VARIANT, linewidth=2.0, zorder=1)
            band = part.mean.interval
            ax.fill_between(sorted(part.scores), band.low, band.high, color=BAND, alpha=0.35, linewidth=0, zorder=0)
    else:
        ax.axhline(found.overall.value, color=VARIANT, linewidth=1.2, zorder=1)
        if found.overall.interval:
            ax.axhspan(found.overall.interval.low, found.overall.interval.high, color=BAND, alpha=0.35, linewidth=0, zorder=0)
    for at in usable:
        if at.interval:
            ax.plot([at.target] * 2, [at.interval.low, at.interval.high], color=INK, linewidth=1.3, zorder=2)
        ax.plot(at.target, at.value, marker="o", markersize=6, color=INK, markerfacecolor="white" if at.flat else INK, zorder=3)
    course = found.course.points if found.course else ()
    ax.plot([at.target for at in course], [at.value for at in course], color=MUTED, linewidth=0.9, zorder=1)
    bounds = [value for at in (*usable, found.overall) for value in ((at.interval.low, at.interval.high) if at.interval else (at.value,))]
    bounds += [at.value for at in course]
    bounds += [end for part in parts for end in (part.mean.interval.low, part.mean.interval.high)]
    _plain_ticks(ax.yaxis, min(*bounds, 0.95), max(*bounds, 1.05))
    scores = [at.target for at in (*usable, *course)]
    _plain_ticks(ax.xaxis, min(scores), max(scores), margin=1.08)


def draw_curves(ax, found) -> None:
    """Draws one line per run, and an arrow at the middle usable target with the multiplier next to it."""
    variant, baseline = found.data
    ax.set(xscale="log", yscale="log", xlabel=found.cost_unit, ylabel=_directed(found.score_unit, variant.lower_is_better))
    for runs, color, marker in ((baseline, INK, "o"), (variant, VARIANT, "s")):
        for i, run in enumerate(np.unique(runs.runs)):
            own = np.flatnonzero(runs.runs == run)
            own = own[np.argsort(runs.cost[own])]
            ax.plot(runs.cost[own], runs.score[own], color=color, linewidth=1.1, marker=marker, markersize=3.5,
                    label=runs.name if i == 0 else "_")
    _plain_ticks(ax.yaxis, min(runs.score.min() for runs in found.data), max(runs.score.max() for runs in found.data))
    _cost_ticks(ax, min(runs.cost.min() for runs in found.data), max(runs.cost.max() for runs in found.data))
    ax.legend(frameon=False, loc="upper right" if variant.lower_is_better else "lower right")
    arrows = _arrows(found)
    for at, _ in arrows:
        ax.annotate("", xy=(at.variant_cost, at.target), xytext=(at.baseline_cost, at.target), zorder=4,
                    arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0})
    corner = {"y": 0.04, "va": "bottom"} if variant.lower_is_better else {"y": 0.96, "va": "top"}
    texts = [text for _, text in arrows] + (["INCONCLUSIVE elsewhere"] if found.in_parts else [])
    ax.text(0.04, s="\n".join(texts), transform=ax.transAxes, fontsize=9, color=INK, ha="left", **corner)


def _arrows(found) -> list:
    """(score of an arrow, its text): in each part that is REAL, or at the middle usable target."""
    usable = [at for at in found.targets if at.status.ok]
    if found.in_parts:
        return [(part.middle, f"{part.where(found.score_unit) or 'throughout'}: multiplier {part.mean.value:.2f}\n"
                              f"95 %: {part.mean.interval.low:.2f} to {part.mean.interval.high:.2f}") for part in found.course.real_parts]
    if not usable:
        return []
    at = usable[len(usable) // 2]
    between = f"95 %: {at.interval.low:.2f} to {at.interval.high:.2f}" if at.interval else "no interval: too few seeds"
    return [(at, f"at {at.target:.3g}: {1 / at.value:.2f} times the cost\nmultiplier {at.value:.2f}\n{between}")]


def _directed(unit: str, lower_is_better: bool) -> str:
    return f"{unit} ({'lower' if lower_is_better else 'higher'} is better)"


def _say(ax, sentence: str) -> None:
    ax.text(0.5, 0.5, textwrap.fill(sentence, TEXT_WIDTH), transform=ax.transAxes, ha="center", va="center", fontsize=9, color=INK)


def _cost_ticks(ax, low: float, high: float) -> None:
    """Shows hours and money as plain numbers; FLOPs and images keep powers of ten."""
    if high < 1e5:
        _plain_ticks(ax.xaxis, low, high, margin=1.1)


def _plain_ticks(axis, low: float, high: float, margin: float = 1.03) -> None:
    """Plain numbers at 1, 2, 5 and so on, or at even steps if those give fewer than four."""
    margin = max(margin, (high / low) ** 0.04)
    low, high = low / margin, high * margin
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= 4:
            break
    else:
        unit = 10.0 ** math.floor(math.log10(high - low))
        unit *= next(part for part in (1, 0.5, 0.2, 0.1) if (high - low) / (unit * part) >= 4)
        ticks = [unit * k for k in range(math.ceil(low / unit), math.floor(high / unit) + 1)]
    axis.set_ticks([], minor=True)
    axis.set_ticks(ticks, labels=[f"{tick:.4g}" for tick in ticks])
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(low, high)
