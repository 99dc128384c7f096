"""Evaluations as a table for a terminal: one row per score, repetitions over sample seeds as mean and interval."""

import numpy as np
from rich.table import Table

from ditscale.evaluation.metrics.table import details
from ditscale.evaluation.passport import SEED, digest
from ditscale.scaling.differences import MIN_SEEDS
from ditscale.scaling.interval import half_width


def mean_and_interval(scores) -> tuple[float, float | None]:
    """The mean of repeated scores, and half its 95 % interval (Student's t); None with fewer than three repetitions."""
    scores = np.asarray(scores, float)
    if len(scores) < MIN_SEEDS:
        return float(scores.mean()), None
    return float(scores.mean()), float(half_width(scores))


def table(lines: list[dict]) -> Table:
    """A row for each checkpoint and setting, in input order. Settings that all share have no column.

    No row is marked as the best: selecting a checkpoint by its score needs separate samples, which is up to the user.
    """
    groups: dict[tuple, list[dict]] = {}
    for line in lines:
        groups.setdefault((line["images_seen"], digest(line["passport"], without=(SEED,))), []).append(line)
    passports = [rows[0]["passport"] for rows in groups.values()]
    varied = [name for name in passports[0] if name != SEED and len({str(passport.get(name)) for passport in passports}) > 1]
    others = [name for name in dict.fromkeys(name for line in lines for name in line.get("values", {}))
              if name not in details()]
    metric = lines[0]["metric"] if len({line["metric"] for line in lines}) == 1 else "score"
    shown = Table()
    for name in ("images seen", *varied, "sample seeds", metric, "floor", *others, "seconds"):
        shown.add_column(name, justify="right")
    for rows in groups.values():
        first = rows[0]
        shown.add_row(_count(first["images_seen"]), *(str(first["passport"].get(name)) for name in varied), str(len(rows)),
                      _score([row["score"] for row in rows], first.get("error")), _number(first["floor"]),
                      *(_number(np.mean([row["values"][name] for row in rows]) if name in first.get("values", {}) else None)
                        for name in others), f"{sum(row['seconds'] for row in rows):.0f}")
    return shown


def _score(scores: list[float], error: float | None) -> str:
    """Mean and interval over seeds, or one score with its bootstrap standard error."""
    mean, half = mean_and_interval(scores)
    if half is not None:
        return f"{mean:.4g} ± {half:.2g}"
    return f"{mean:.4g}" + (f" (se {error:.2g})" if error is not None and len(scores) == 1 else "")


def _count(images: int | None) -> str:
    return "" if images is None else f"{images:,}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
