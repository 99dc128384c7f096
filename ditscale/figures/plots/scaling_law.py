"""Score against model compute or training compute with a law of any form, its band, its hold-out, and the fit card.

One point per finished run. The curve is solid within the data and dashed beyond. If the points contradict the law, or do not
determine one, there is no curve, and the figure gives the reason.
"""

import textwrap
from types import SimpleNamespace

import click
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.lines import Line2D

from ditscale.errors import UserError
from ditscale.figures.kit import law_points, panels, script, study_table, style
from ditscale.figures.kit.law_points import LawPoints
from ditscale.scaling.fitting import Fit, fit
from ditscale.scaling.laws import FORMS, RepeatedData
from ditscale.scaling.pinned import pin
from ditscale.scaling.profile import ProfileIntervals
from ditscale.scaling.repeated import compare
from ditscale.scaling.spending import Spending
from ditscale.scaling.status import FARTHEST
from ditscale.studies.predictions.show import pinned_of

NAME = "scaling_law"
COSTS = ("train_flops", "macs")
COLUMNS = ["run", "model", "N", "D", "C", "score"]
STEPS, BAND_STEPS, MOST_BANDS, MOST_CURVES = 120, 16, 3, 6
BAND_PLACES = np.linspace(0, STEPS - 1, BAND_STEPS).round().astype(int)      # of a curve's steps, where its band is computed
OPTIONS = {
    "form": {"type": click.Choice(tuple(FORMS)), "default": "power_law", "show_default": True, "help": "The law."},
    "x": {"type": click.Choice(tuple(COSTS)), "default": "train_flops", "show_default": True, "help": "The variable of forms with one variable."},
    "pin": {"multiple": True, "metavar": "NAME=X", "help": "Fix a coefficient to a known value, as E=1.6 or R_star=15; can be repeated."},
    "checkpoints": {"is_flag": True, "help": "Fit every evaluation, not only each run's last: for a constant learning rate."},
    "extrapolate": {"type": float, "default": FARTHEST, "show_default": True, "metavar": "TIMES",
                    "help": "Draw the curve, dashed, up to this many times beyond the data."},
}


def draw(table: pd.DataFrame, options: SimpleNamespace) -> style.Drawing:
    """The figure, its points, its caption and the fit card.

    Raises:
        UserError: the scores are not comparable, no run has finished, or ``extrapolate`` is below 1.
    """
    if not options.extrapolate >= 1:
        raise UserError(f"--extrapolate {options.extrapolate:g} must be 1 or more: how many times beyond the data the curve goes")
    form = pin(options.form, **pinned_of(options.pin))
    one = form.VARIABLES == ("x",)
    points = law_points.choose(table, options.checkpoints, at_one_length=one and options.x == "macs")
    rows = points.rows
    found = fit(form, _variables(form, rows, options.x), rows["score"], rows["run"], x_unit=_units(form, options.x), y_unit=points.metric)
    lines = _lines(found, rows, points.spending, options.x, options.extrapolate)
    intervals = found.intervals(_band_at(form, lines)) if found.drawable else None
    with style.paper():
        figure, axes = style.new_axes(height=4.6)
        shown = _points(axes, rows, found, options.x, one)
        low, high = _ends(rows, found)
        if found.drawable:
            shown += _curves(axes, rows, found, lines, intervals)
            low, high = min(low, *(line["y"].min() for line in lines)), max(high, *(line["y"].max() for line in lines))
        _axes(axes, points, rows, options.x if one else "train_flops", lines, low, high)
        panels.legend(figure, shown, columns=2)
        _say(axes, found)
    card, caption = found.card(intervals, points.context), _caption(points, found, intervals, options)
    if form.NAME == RepeatedData.NAME:
        caption, card = _repetition(caption, card, found, points, options.pin)
    return style.Drawing(NAME, figure, _table(rows, found), caption, card)


def _repetition(caption: str, card: dict, found: Fit, points: LawPoints, pins: tuple[str, ...]) -> tuple[str, dict]:
    """The caption and the card with the comparison to the form that counts every image as new."""
    rows = points.rows
    against = compare(found, fit("chinchilla", {"N": rows["N"], "D": rows["D"]}, rows["score"], rows["run"]))
    unique = law_points.unique(rows)
    epochs = rows["D"] / unique
    tested = "" if "R_star" in pinned_of(pins) else f" {against.sentence}."     # a stated R_star is no question to these points
    curves = " Curves are of each size's largest U." if found.drawable else ""
    words = (f"{tested} R_star is in epochs; the points have {epochs.min():.3g} to {epochs.max():.3g}.{curves} Mirrored images do not count as unique ones.")
    return caption + words, {**card, "against_no_repetition": against.card(), "epochs": [float(epochs.min()), float(epochs.max())]}


def _variables(form, rows: pd.DataFrame, x: str) -> dict[str, np.ndarray]:
    known = {"x": rows["macs" if x == "macs" else "C"], "N": rows["N"], "D": rows["D"], "C": rows["C"], "M": rows["D"] / rows["N"]}
    if "U" in form.VARIABLES:
        known["U"] = pd.Series(law_points.unique(rows), rows.index)
    return {name: known[name].to_numpy(float) for name in form.VARIABLES}


def _units(form, x: str):
    words = {"N": "N", "D": "D", "C": "training FLOPs", "M": "D / N", "U": "unique images"}
    return ({"macs": "forward MACs per image", "train_flops": "training FLOPs"}[x] if form.VARIABLES == ("x",)
            else {name: words[name] for name in form.VARIABLES})


def _held_out(rows: pd.DataFrame, found: Fit) -> np.ndarray:
    """Which points the hold-out left out: those of the largest size, or of the largest x."""
    if found.hold_out is None:
        return np.zeros(len(rows), bool)
    columns = found.points.columns
    size = np.sqrt(columns["C"] / columns["M"]) if list(columns) == ["C", "M"] else next(iter(columns.values()))
    return size >= found.hold_out.x * (1 - 1e-9)


def _lines(found: Fit, rows: pd.DataFrame, rule: Spending, x: str, times: float) -> list[dict]:
    """The curve of a law of one variable, or one per size: x on the axis, the law's variables, y, and where the data end."""
    if not found.drawable:
        return []
    form, times = type(found.law), 1.0 if found.no_extension else times
    if form.VARIABLES == ("x",):
        low, high = found.x_range
        at = np.geomspace(low, high * times, STEPS)
        return [{"x": at, "columns": {"x": at}, "y": found.law.evaluate(at), "end": high, "N": None}]
    lines, inside = [], {name: (rows[name].min(), rows[name].max()) for name in ("D", "C")}
    for size in _drawn_sizes(rows):
        low, high = (pick(amount, rule.data(size, compute)) for pick, amount, compute in zip((max, min), inside["D"], inside["C"]))
        if low > high:                                                  # for this size no amount lies within both limits
            continue
        amount = np.geomspace(low, high * times, STEPS)
        known = {"N": np.full(STEPS, size), "D": amount, "C": rule.compute(size, amount), "M": amount / size}
        if "U" in form.VARIABLES:                                       # of several data sets, the largest of the size
            known["U"] = np.full(STEPS, law_points.unique(rows[rows["N"] == size]).max())
        columns = {name: known[name] for name in form.VARIABLES}
        lines.append({"x": known["C"], "columns": columns, "y": found.law.evaluate(columns), "end": rule.compute(size, high), "N": size})
    return lines


def _drawn_sizes(rows: pd.DataFrame) -> list[float]:
    """Sizes with a curve and a name: all if there are few, otherwise the smallest, the middle and the largest."""
    sizes = sorted(rows["N"].unique())
    return sizes if len(sizes) <= MOST_CURVES else [sizes[0], sizes[len(sizes) // 2], sizes[-1]]


def _band_at(form, lines: list[dict]):
    """The x of the band; None if there are too many curves to distinguish their bands."""
    if len(lines) > MOST_BANDS:
        return None
    at = {name: np.concatenate([line["columns"][name][BAND_PLACES] for line in lines]) for name in form.VARIABLES}
    return at["x"] if list(at) == ["x"] else at


def _colors(rows: pd.DataFrame) -> dict[float, str]:
    sizes = sorted(rows["N"].unique())
    return dict(zip(sizes, style.ramp(len(sizes))))


def _points(axes, rows: pd.DataFrame, found: Fit, x: str, one: bool) -> list[Line2D]:
    """Draws one marker per run, hollow if it was held out; returns their legend entries."""
    colors, out = _colors(rows), _held_out(rows, found)
    column = x if one and x == "macs" else "C"
    for (at, score, size, patch), hollow in zip(rows[[column, "score", "N", "patch_size"]].itertuples(index=False), out):
        color = style.patch_color(int(patch)) if one else colors[size]
        axes.plot(at, score, linestyle="", marker=style.patch_marker(int(patch)) if one and patch else "o", markersize=6, zorder=4,
                  markerfacecolor=style.PAPER if hollow else color, markeredgecolor=color if hollow else style.PAPER,
                  markeredgewidth=1.4 if hollow else 0.6, alpha=1.0)
    if one:
        handles = [Line2D([], [], linestyle="", marker=style.patch_marker(p), color=style.patch_color(p), label=f"patch size {p}")
                   for p in sorted(set(rows["patch_size"].astype(int))) if p]
    else:
        names = rows.drop_duplicates("N").set_index("N")["model"]
        handles = [Line2D([], [], linestyle="", marker="o", color=colors[size], label=study_table.short_name(names[size]))
                   for size in _drawn_sizes(rows)]
    if out.any():
        handles.append(Line2D([], [], linestyle="", marker="o", color=style.INK, markerfacecolor=style.PAPER, markeredgewidth=1.4,
                              label="held out: " + _error(found)))
    if one and out.any():
        axes.plot(found.hold_out.x, found.hold_out.predicted, linestyle="", marker="_", markersize=15, markeredgewidth=2.2,
                  color=style.INK, zorder=5)
        handles.append(Line2D([], [], linestyle="", marker="_", markersize=13, markeredgewidth=2.2, color=style.INK,
                              label="prediction of the law without them"))
    return handles


def _curves(axes, rows: pd.DataFrame, found: Fit, lines: list[dict], intervals: ProfileIntervals) -> list[Line2D]:
    colors = {**_colors(rows), None: style.INK}
    for line in lines:
        inside = line["x"] <= line["end"] * (1 + 1e-9)
        axes.plot(line["x"][inside], line["y"][inside], color=colors[line["N"]], linewidth=1.6, zorder=3)
        if found.no_extension:
            continue
        beyond = line["x"] >= line["end"] * (1 - 1e-9)
        beyond[max(int(inside.sum()) - 1, 0)] = True
        axes.plot(line["x"][beyond], line["y"][beyond], color=colors[line["N"]], linewidth=1.4, linestyle=(0, (4, 2.5)), zorder=3)
    handles = [Line2D([], [], color=style.INK, linewidth=1.6, label=found.form.replace("y = ", "").partition(",")[0])]
    if not found.no_extension:
        handles.append(Line2D([], [], color=style.INK, linewidth=1.4, linestyle=(0, (4, 2.5)), label="beyond the data"))
    if intervals.band is None:
        return handles
    for i, line in enumerate(lines):
        own = slice(i * BAND_STEPS, (i + 1) * BAND_STEPS)
        axes.fill_between(line["x"][BAND_PLACES], intervals.band.low[own], intervals.band.high[own], linewidth=0, zorder=1,
                          color=style.BAND if line["N"] is None else colors[line["N"]], alpha=0.3)
    handles.append(Line2D([], [], color=style.BAND, linewidth=7, alpha=0.5, label="95 % band (profile)"))
    return handles


def _ends(rows: pd.DataFrame, found: Fit) -> tuple[float, float]:
    shown = [*rows["score"], *([found.hold_out.predicted] if found.hold_out else [])]
    return min(shown), max(shown)


def _axes(axes, points: LawPoints, rows: pd.DataFrame, x: str, lines: list[dict], low: float, high: float) -> None:
    at = [*rows["macs" if x == "macs" else "C"], *(line["x"][-1] for line in lines)]
    if x == "macs" and points.context["N"] != "as given":
        unit, symbol, _ = style.macs_unit(rows["macs"])
        axes.set(xlabel=style.macs_axis_label(symbol), xlim=style.log_limits(at))
        style.plain_log_ticks(axes.xaxis, *(end / unit for end in axes.get_xlim()))
        axes.xaxis.set_major_locator(ticker.FixedLocator([tick * unit for tick in axes.xaxis.get_majorticklocs()]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / unit:,.6g}")
    else:
        panels.flops_axis(axes, at, "Training compute (FLOPs)" if x == "train_flops" else points.size_label)
    panels.score_axis([axes], f"{points.metric} (lower is better)", [low, high])


def _say(axes, found: Fit) -> None:
    """Writes the reason why no curve is drawn."""
    if not found.drawable:
        axes.set_title(textwrap.fill(f"No curve: {found.words}.", 78), fontsize=9, color=style.INK, loc="left")


def _error(found: Fit) -> str:
    return f"rms {style.percent(found.hold_out.rms)}"


def _table(rows: pd.DataFrame, found: Fit) -> pd.DataFrame:
    law = found.law.evaluate(found.points.columns) if found.drawable else np.nan
    return rows[COLUMNS].assign(law=law, held_out=_held_out(rows, found))


def _caption(points: LawPoints, found: Fit, intervals: ProfileIntervals | None, options: SimpleNamespace) -> str:
    runs = f"{study_table.count(found.n_points, 'point')} of {study_table.count(found.n_runs, 'run')}"
    told = "" if found.drawable else found.words                               # has the tests that contradict the law
    parts = [f"{points.metric} of {runs} and the form {found.form}, by least squares of ln y."]
    if not found.drawable:
        parts.append(f"No curve is drawn: {found.words}.")
    else:
        parts.append(f"The law is {found.law.formula()}" + ("" if found.status.ok else f", but {found.words}") + ".")
        beyond = f"dashed up to {options.extrapolate:g} times beyond"
        parts.append("The curve ends at the limits of the data." if found.no_extension else f"The curve is solid within the data and {beyond}" + (
            ", farther than these points support." if options.extrapolate > FARTHEST else "."))
        parts.append(_bounds(intervals))
    if found.outliers.found:
        parts.append(f"{found.outlier_sentence}.")
    if found.lack_of_fit is not None and "F = " not in told:
        tested = found.lack_of_fit
        parts.append(f"Lack of fit against the seeds' spread: p = {tested.p:.2g}." if tested.p is not None
                     else f"Lack of fit was not tested: {tested.reason}.")
    if found.hold_out is not None:
        of = found.hold_out
        parts.append(f"Without the hollow points, of the largest {'x' if len(found.points.columns) == 1 else 'size'}, the law's score "
                     f"there is {style.signed(100 * of.error, 1)} % off ({style.score_text(of.predicted)} for {style.score_text(of.observed)}), "
                     f"root mean square {style.percent(of.rms)} over {study_table.count(of.points, 'point')}.")
    elif found.drawable:
        parts.append("Nothing could be held out: without the largest points, too few remain for a law.")
    if found.hold_out_in_time is not None and "fitted on the first half" not in told:
        ends = found.hold_out_in_time
        parts.append(f"Fitted on the first half of each run it is {style.signed(100 * ends.error, 1)} % off at the runs' ends, root mean square "
                     f"{style.percent(ends.rms)}" + (f", p = {ends.p:.2g} against the seeds." if ends.p is not None else ", without seeds to test it."))
    if list(found.points.columns) != ["x"]:
        if found.drawable:
            which = "every size" if len(_drawn_sizes(points.rows)) == points.rows["N"].nunique() else "the smallest, the middle and the largest size"
            parts.append(f"Curves are of {which}, light to dark, within the amounts and the compute of the data as a whole.")
        parts.append(f"N is {points.context['N']}, D {points.context['D']}.")
    return " ".join(parts) + points.note


def _bounds(intervals: ProfileIntervals) -> str:
    if not intervals.status.ok:
        return f"No interval: {intervals.sentence}."
    ends = "; ".join(f"{name} {bounds.low:.3g} to {bounds.high:.3g}" for name, bounds in intervals.coefficients.items())
    return f"95 % profile intervals: {ends}."


SCRIPT = script.figure(__doc__, draw, options=OPTIONS, rows=law_points.read)
main = SCRIPT.main
