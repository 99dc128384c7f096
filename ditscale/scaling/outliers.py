"""Runs that score far from their siblings: reported with distance and rule, never dropped silently.

Siblings are runs that differ in seed alone, at equal x (a model, variant and number of images). The yardstick is one robust
standard deviation of ln score for all siblings together: the median of |difference| over all pairs of siblings, / 0.954, which
is what it is of normal noise. A point is far where its ln score lies ``THRESHOLD`` of them from its siblings' median, itself
counted, and the score itself by a factor of ``LEAST``. Of two siblings nobody can tell which is off: it takes three.
A run is named once, at its farthest point. Where most pairs hold an outlier the rule is blind.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ditscale.scaling.curves import Runs
from ditscale.scaling.evidence import distinct_points

THRESHOLD = 5.0
LEAST = 1.1
SIBLINGS = 3
RULE = (f"{THRESHOLD:g} robust standard deviations of ln score or more, and a factor of {LEAST:g}, from the median of {SIBLINGS} siblings "
        "or more")
OF_NORMAL = math.sqrt(2) * 0.6744897501960817     # the median of |a - b| for two standard normal draws
FARTHEST = 100.0                                  # deviations beyond are told as "more than"


@dataclass(frozen=True)
class Outlier:
    """``factor`` is its score over its siblings' median where it is farthest, ``deviation`` that in robust standard deviations.

    ``times`` of its ``points`` are far. ``of`` is the variant, empty where it is not known.
    """

    run: str
    of: str
    where: str
    score: float
    median: float
    deviation: float
    times: int
    points: int

    @property
    def factor(self) -> float:
        return self.score / self.median

    @property
    def sentence(self) -> str:
        far = f"{self.deviation:.0f}" if self.deviation < FARTHEST else f"more than {FARTHEST:.0f}"
        often = f", the farthest of {self.times} such points of its {self.points}" if self.points > 1 else ""
        of = f" of {self.of}" if self.of else ""
        return (f"run '{self.run}'{of} scores {self.factor:.3g} times its siblings' median ({self.score:.4g} against {self.median:.4g}) "
                f"{self.where}{often}, {far} robust standard deviations away")


@dataclass(frozen=True)
class Outliers:
    """``found`` by distance, farthest first; ``sigma`` is the robust standard deviation of ln score, NaN without siblings."""

    found: tuple[Outlier, ...] = ()
    sigma: float = math.nan

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(one.run for one in self.found)

    def among(self, runs) -> "Outliers":
        """Those that are of these runs."""
        return replace(self, found=tuple(one for one in self.found if one.run in set(runs)))

    def runs_of(self, name: str) -> tuple[str, ...]:
        """Those of one variant: two variants may name their runs alike."""
        return tuple(one.run for one in self.found if one.of == name)

    @property
    def sentence(self) -> str:
        """Each with its distance, and the rule; an empty string where there is none."""
        if not self.found:
            return ""
        named = "; ".join(one.sentence for one in self.found)
        return f"{'Outlier' if len(self.found) == 1 else 'Outliers'}: {named} (the rule: {RULE}; one is {math.expm1(self.sigma):.2%})"

    @property
    def them(self) -> str:
        return "it" if len(self.found) == 1 else "them"

    def told(self, words: str, without) -> str:
        """What all runs give, in ``words``; with outliers, these too, and the ``sentence`` of the answer ``without`` them."""
        return words if without is None else f"{words}. {self.sentence}. Without {self.them}: {without.sentence}"

    def card(self) -> dict:
        """Ready for JSON: absent numbers are None."""
        return {"rule": RULE, "robust_sigma_of_ln_score": self.sigma if math.isfinite(self.sigma) else None,
                "runs": [{"run": one.run, "of": one.of or None, "where": one.where, "score": one.score,
                          "siblings_median": one.median, "factor": one.factor, "robust_deviations": min(one.deviation, FARTHEST),
                          "points_far": one.times, "points": one.points}
                         for one in self.found]}


def of_points(score, cells, runs, where: Callable[[int], str]) -> Outliers:
    """Outliers among points that are siblings where they are of one cell.

    Args:
        score: positive, ``(n,)``; cells, runs: of each point, ``(n,)``; several points of a run in one cell are no siblings.
        where: the cell of a point, given by its number, in words.
    """
    level, runs = np.log(np.asarray(score, float)), np.asarray(runs).astype(str)
    _, cell = np.unique(np.asarray(cells), return_inverse=True)
    rows = []
    for members in np.split(np.argsort(cell, kind="stable"), np.flatnonzero(np.diff(np.sort(cell))) + 1):
        for i in members:
            others = members[runs[members] != runs[i]]
            rows.append((str(runs[i]), "", where(int(i)), level[[i, *others]], 1 + len(np.unique(runs[others]))))
    return _among(rows)


def of_runs(sides: Sequence[Runs]) -> Outliers:
    """Outliers among the runs of each model and side, at each evaluation against what its siblings scored at as many images.

    Between two evaluations a sibling's score is the straight line in logarithms, and nothing outside them. Without
    ``Runs.images`` they are compared at equal cost.
    """
    rows = []
    for side in sides:
        at, unit = (side.cost, "cost") if side.images is None else (side.images, "images")
        for model in np.unique(side.models):
            curves = {str(run): _line(at[own], side.score[own]) for run in np.unique(side.runs[side.models == model])
                      for own in [(side.runs == run) & (side.models == model)]}
            for run, (x, y) in curves.items():
                others = [np.interp(x, *line, left=np.nan, right=np.nan) for name, line in curves.items() if name != run]
                for k, values in enumerate(np.column_stack([y, *others])):
                    values = values[np.isfinite(values)]
                    rows.append((run, side.name, _place(math.exp(x[k]), unit), values, len(values)))
    return _among(rows)


def of_law(columns: dict[str, np.ndarray], runs: np.ndarray, y: np.ndarray) -> Outliers:
    """Outliers among the points of a law, siblings where all variables agree to nine digits; ``(n,)`` each."""
    words = [", ".join(f"{name} = {column[i]:.4g}" for name, column in columns.items()) for i in range(len(y))]
    return of_points(y, distinct_points(columns), runs, lambda i: f"at {words[i]}")


def law_without(fit) -> str:
    """What a ``result.Fit`` says of its outliers: their names, and its coefficients with and without them, where they move most."""
    if not fit.outliers.found:
        return ""
    them, without = fit.outliers.them, fit.without
    if without.law is None or fit.law is None:
        return f"{fit.outliers.sentence}. Without {them} there is no law: {without.sentence}"
    moved = ", ".join(f"{name} {before:.4g} and {after:.4g}" for (name, before), after in
                      zip(fit.law.coefficients().items(), without.law.coefficients().values()))
    shift = fit.law.evaluate(fit.points.columns) / without.law.evaluate(fit.points.columns) - 1
    worst = int(np.argmax(np.abs(shift)))
    at = ", ".join(f"{name} = {column[worst]:.4g}" for name, column in fit.points.columns.items())
    state = "" if without.status.ok else f" ({without.status.sentence})"
    return f"{fit.outliers.sentence}. With and without {them}{state}: {moved}; the law moves by {shift[worst]:+.1%} at {at}"


def _line(at: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A run's points in logarithms, by x; several at one x are their mean."""
    x, where = np.unique(np.log(at), return_inverse=True)
    return x, np.bincount(where, np.log(score)) / np.bincount(where)


def _place(value: float, unit: str) -> str:
    return f"at {value:,.0f} images" if unit == "images" else f"at a cost of {value:.3g}"


def _among(rows: list[tuple[str, str, str, np.ndarray, int]]) -> Outliers:
    """Of points given as (run, of, where, the levels of itself and then its siblings, how many runs these are)."""
    pairs = np.concatenate([np.abs(values[1:] - values[0]) for *_, values, _ in rows] or [np.empty(0)])
    if not len(pairs):
        return Outliers()
    sigma = float(np.median(pairs)) / OF_NORMAL
    far: dict[tuple[str, str], list[Outlier]] = {}
    points = Counter((run, of) for run, of, *_ in rows)
    for run, of, where, values, count in rows:
        middle = float(np.median(values))
        away = abs(values[0] - middle)
        if count >= SIBLINGS and away >= THRESHOLD * sigma and away >= math.log(LEAST):
            far.setdefault((run, of), []).append(Outlier(run, of, where, math.exp(values[0]), math.exp(middle),
                                                         float(away / sigma) if sigma else math.inf, 0, points[run, of]))
    worst = [replace(max(own, key=lambda one: one.deviation), times=len(own)) for own in far.values()]
    return Outliers(tuple(sorted(worst, key=lambda one: (-one.deviation, one.of, one.run))), sigma)
