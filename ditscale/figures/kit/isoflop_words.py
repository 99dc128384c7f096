"""The caption and the card of the isoFLOP figure: how points were grouped, what was left out, the known bias of each curve."""

from ditscale.figures.kit import study_table, style
from ditscale.scaling.budgets import NEAR_STATED
from ditscale.scaling.cards import bounds

NAMES = {"parabola": "parabolas", "akima": "Akima"}
# Measured by benchmarks/bias_isoflop.py, on 15 sizes that reach 16 times to both sides of the optimum.
BIAS = {
    "parabola": "A parabola's vertex is biased if the surface's exponents differ: on exact points of Hoffmann's surface, N* at 1e24 FLOPs is "
                "5.4 % off, and 30 % with exponents of .465 and .155.",
    "akima": "Akima's curve goes through every point: on exact points of Hoffmann's surface, N* at 1e24 FLOPs is 0.3 % off, and 1.3 % with exponents of "
             ".465 and .155; but 0.3 % of noise moves it by −51 to +109 %, and a parabola's by +1 to +10 %. It has no interval here.",
}
MOST_WARNINGS = 4


def binned(points, options) -> str:
    """How runs were grouped into budgets."""
    if options.budgets:
        return f"each run goes to the nearest stated budget, within {100 * NEAR_STATED:g} %"
    if points.states_budgets:
        return "budgets are read from the column budget"
    return f"runs with FLOPs within {options.width:g} % of each other are one budget"


def caption(points, kept, lines, dropped, surface, optima, options) -> str:
    line, named = lines[options.curve], NAMES[options.curve]
    inside = sum(budget.valley is not None and budget.valley.centered for budget in kept)
    warnings = [budget.warning for budget in kept if budget.warning]
    more = f"; and {len(warnings) - MOST_WARNINGS} more, in the card" if len(warnings) > MOST_WARNINGS else ""
    curve = ("a parabola in ln N per budget (solid)" if options.curve == "parabola" else
             "Akima's curve of ln score in ln N through the points of a budget (solid)")
    right = "the parabolas' vertices with Fieller's 95 % intervals" if options.curve == "parabola" else "the lowest points of Akima's curves"
    parts = [
        f"{points.metric} against model size at {study_table.count(len(kept), 'budget')} of training compute, {_rule(points)}; "
        f"{binned(points, options)}; N is {points.context['N']}. Left: {curve} and the surface's cut (dashed). Right: {right}, the surface's "
        "optima with percentiles over resampled runs.",
        f"Center check: {inside} of {len(kept)} budgets have their optimum inside the grid"
        + (f"; {'; '.join(warnings[:MOST_WARNINGS])}{more}." if warnings else ", 2 to 4 times from both ends."),
        left_out(dropped),
        f"{named[0].upper()}{named[1:]} give{'s' if options.curve == 'akima' else ''} N* ∝ C^{line.exponent:.3f}." if line.ok
        else f"{named[0].upper()}{named[1:]} give{'s' if options.curve == 'akima' else ''} no N*(C): fewer than two optima lie inside.",
        *_of_surface(points, kept, line, surface, optima, named), BIAS[options.curve],
        *([f"{surface.outlier_sentence}."] if surface.outliers.found else [])]
    return " ".join(filter(None, parts)) + points.note


def left_out(dropped) -> str:
    """A sentence on the rows in no curve; "" if there are none."""
    if not dropped:
        return ""
    rows = sum(one.points for one in dropped)
    groups = "; ".join(f"{study_table.count(one.points, 'row')} near {style.power_of_ten(one.compute)} FLOPs, "
                     + (f"{study_table.count(one.sizes, 'size')} only" if one.sizes else one.why) for one in dropped[:MOST_WARNINGS])
    more = f"; and {study_table.count(len(dropped) - MOST_WARNINGS, 'more budget')}, in the card" if len(dropped) > MOST_WARNINGS else ""
    return f"In no curve, but in the surface's fit: {study_table.count(rows, 'row')} ({groups}{more})."


def _rule(points) -> str:
    if not points.spending.misfit and points.spending.p == points.spending.q == 1.0:
        return f"C = {points.spending.k:g} N D"
    return f"C as given, near {points.spending.formula} (at most {100 * points.spending.misfit:.2g} % off)"


def _of_surface(points, kept, line, surface, optima, named: str) -> list[str]:
    if not optima:
        if surface.drawable:
            return [f"No optimum of the surface is reported: no rule C = k N^p D^q describes the compute; the nearest is {points.spending.formula}, up to "
                    f"{100 * points.spending.misfit:.2g} % off."]
        return [f"No surface is drawn: {surface.words}."]
    between = optima["exponent_interval"]
    over = f" (95 % {between.low:.3f} to {between.high:.3f} over resampled runs)" if between else ""
    parts = [f"The surface gives N* ∝ C^{optima['exponent']:.3f}{over}" + ("." if surface.status.ok else f", but {surface.words}.")]
    if line.ok:
        last = kept[-1].compute
        off = float(line.size(last)) / optima["sizes"][-1] - 1.0
        parts.append(f"At {style.power_of_ten(last)} FLOPs the N* of {named} is {style.signed(100 * off, 1)} % off the surface's.")
    return parts


def card(kept, lines, dropped, surface, optima, points, options) -> dict:
    """Ready for JSON. ``approach_2`` has the parabolas' numbers, ``akima`` Akima's; intervals and warnings are for the curve drawn."""
    of_curve = {"parabola": "approach_2", "akima": "akima"}
    drawn = {of_curve[method]: {"exponent": line.exponent if line.ok else None, "coefficient": line.coefficient if line.ok else None,
                                "budgets": _valleys(line)} for method, line in lines.items()}
    drawn[of_curve[options.curve]]["budgets"] = [{
        "compute": budget.compute, "sizes": budget.sizes, "optimum": budget.valley.size if budget.valley else None,
        "inside_the_grid": bool(budget.valley and budget.valley.centered), "largest_compute_over_smallest": budget.spread,
        **bounds(budget.interval), "interval": "Fieller" if options.curve == "parabola" else "none", "warning": budget.warning or None}
        for budget in kept]
    found = [{"compute": budget.compute, "optimum": size, **bounds(interval), "interval": "percentiles over resampled runs"}
             for budget, size, interval in zip(kept, optima.get("sizes", ()), optima.get("intervals", ()))]
    return {**drawn, "curve_drawn": options.curve, "approach_3": {**surface.card(), "optima": found, "exponent": optima.get("exponent")},
            **points.context, "budgets": binned(points, options),
            "dropped": [{"compute": one.compute, "rows": one.points, "sizes": one.sizes or None, "why": one.why} for one in dropped]}


def _valleys(line) -> list[dict]:
    return [{"compute": one.compute, "sizes": one.sizes, "optimum": one.size, "inside_the_grid": one.centered,
             "largest_compute_over_smallest": one.spread} for one in line.valleys]
