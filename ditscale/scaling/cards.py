"""Cards of multipliers, frontiers and times to quality, as plain values for JSON: missing numbers are None, never NaN."""

import math
from importlib.metadata import version

from ditscale.scaling.interval import LEVEL, Interval


def multiplier_card(found) -> dict:
    """The card of a ``multiplier.Multiplier``."""
    pooled = found.noise is not None
    return {
        "status": found.status.name, "sentence": found.sentence, "variant": found.variant, "baseline": found.baseline,
        "units": {"cost": found.cost_unit, "score": found.score_unit}, "level": LEVEL,
        "method": "ln cost at a target on each run's monotone curve (isotonic, PCHIP); Student's t on "
                  + ("pooled noise of ln score over the slope" if pooled else "the runs' values, Welch's degrees of freedom"),
        "repeated": "runs", "score_range": [number(value) for value in found.score_range],
        "overall": _estimate(found.overall), "noise": found.noise.card() if pooled else None,
        "targets": [{
            "target": number(at.target), **_estimate(at), "variant_cost": number(at.variant_cost),
            "baseline_cost": number(at.baseline_cost), "variant_model": at.variant_model, "baseline_model": at.baseline_model,
            "slope": number(at.slope), "flat": at.flat, "delta_sigma_of_ln": number(at.delta_sigma),
        } for at in found.targets],
        "course": _course(found.course) if found.course else None,
        "outliers": found.outliers.card(), "without_outliers": multiplier_card(found.without) if found.without else None,
        "versions": versions(),
    }


def _course(course) -> dict:
    """The multiplier over the whole range, and the parts in which it is REAL."""
    return {
        "p_of_no_trend": number(course.trend_p), "p_of_no_change_at_the_end": number(course.end_p),
        "passes_one_between": [list(pair) for pair in course.passes_one],
        "parts": [{"scores": list(part.scores), "baseline_costs": list(part.costs), "side": part.side if part.real else None,
                   **_estimate(part.mean)} for part in course.parts],
        "points": [{"target": at.target, **_estimate(at)} for at in course.points],
    }


def frontier_card(found) -> dict:
    """The card of a ``frontier.Frontier``."""
    return {
        "status": found.status.name, "sentence": found.sentence, "units": {"cost": found.cost_unit, "score": found.score_unit},
        "lower_is_better": found.lower_is_better, "level": LEVEL, "noise": found.noise.card() if found.noise else None, "seed": found.seed,
        "without_outliers": frontier_card(found.without) if found.without else None,
        "cells": [{"name": cell.name, "cost": cell.cost, "score": cell.score, "seeds": len(cell.runs), "on_frontier": cell.on_frontier,
                   "probability": number(cell.probability), **bounds(cell.interval)} for cell in found.cells],
        "versions": versions(),
    }


def quality_card(found) -> dict:
    """The card of a ``quality.TimeToQuality``."""
    return {
        "status": found.status.name, "sentence": found.sentence, "target": found.target, "units": {"cost": found.cost_unit},
        "cost": number(found.cost), **bounds(found.interval), "at_least": number(found.at_least),
        "runs": [{"run": run.run, "state": run.state, "cost": number(run.cost)} for run in found.runs],
        "outliers": found.outliers.card(), "without_outliers": quality_card(found.without) if found.without else None,
        "versions": versions(),
    }


def _estimate(estimate) -> dict:
    return {"multiplier": number(estimate.value), **bounds(estimate.interval), "sigma_of_ln": number(estimate.sigma),
            "degrees_of_freedom": number(estimate.freedom), "seeds": list(estimate.seeds), "verdict": estimate.verdict,
            "reason": estimate.reason}


def bounds(interval: Interval | None) -> dict:
    return {"low": interval.low if interval else None, "high": interval.high if interval else None}


def number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "scipy")}
