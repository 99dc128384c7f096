"""Runs with scores far from their siblings': reported with distance and rule, never dropped silently.

Siblings are runs that differ only in seed, at equal x (a model, variant and number of images). The unit is one robust
standard deviation of ln score for all siblings together: the median of |difference| over all pairs of siblings, / 0.954, which
its value for normal noise. A point is an outlier if its ln score is ``THRESHOLD`` of them from its siblings' median (itself
included) and its score differs by a factor of ``LEAST``. With two siblings it is unclear which is off, so three are needed.
A run is named once, at its farthest point. If most pairs include an outlier, the rule finds nothing.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ditscale.scaling.curves import Runs
from ditscale.scaling.evidence import distinct_points
from ditscale.scaling.inputs import members

THRESHOLD = 5.0
LEAST = 1.1
SIBLINGS = 3
RULE = (f"{THRESHOLD:g} robust standard deviations of ln score or more, and a factor of {LEAST:g}, from the median of {SIBLINGS} siblings "
        "or more")
OF_NORMAL = math.sqrt(2) * 0.6744897501960817     # the median of |a - b| for two standard normal draws
MOST_NAMED = 20                                   # outliers in a sentence; a card has all
FARTHEST = 100.0                                  # larger deviations are written as "more than"


@dataclass(frozen=True)
class Outlier:
    """``factor`` is its score over its siblings' median at its farthest point, ``deviation`` the same in robust standard deviations.

    ``times`` of its ``points`` are outliers. ``of`` is the variant, "" if unknown.
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
        """The outliers among these runs."""
        return replace(self, found=tuple(one for one in self.found if one.run in set(runs)))

    def runs_of(self, name: str) -> tuple[str, ...]:
        """The outliers of one variant: two variants may use the same run names."""
        return tuple(one.run for one in self.found if one.of == name)

    @property
    def sentence(self) -> str:
        """Each outlier with its distance, and the rule; "" if there are none."""
        if not self.found:
            return ""
        more = len(self.found) - MOST_NAMED
        named = "; ".join(one.sentence for one in self.found[:MOST_NAMED]) + (f"; and {more:,} more" if more > 0 else "")
        return f"{'Outlier' if len(self.found) == 1 else 'Outliers'}: {named} (the rule: {RULE}; one is {math.expm1(self.sigma):.2%})"

    @property
    def them(self) -> str:
        return "it" if len(self.found) == 1 else "them"

    def add_to(self, words: str, without, lost: str = "") -> str:
        """``words`` on the result of all runs; if there are outliers, also their names and the ``sentence`` of the result ``without`` them;
        ``lost`` is what the latter cannot show."""
        return words if without is None else f"{words}. {self.sentence}. Without {self.them}{lost}: {without.sentence}"

    def card(self) -> dict:
        """Ready for JSON: missing numbers are None."""
        return {"rule": RULE, "robust_sigma_of_ln_score": self.sigma if math.isfinite(self.sigma) else None,
                "runs": [{"run": one.run, "of": one.of or None, "where": one.where, "score": one.score,
                          "siblings_median": one.median, "factor": one.factor, "robust_deviations": min(one.deviation, FARTHEST),
                          "points_far": one.times, "points": one.points}
                         for one in self.found]}


def of_points(score, cells, runs, where: Callable[[int], str]) -> Outliers:
    """Outliers among points; those in one cell are siblings.

    Args:
        score: positive, ``(n,)``; cells, runs: of each point, ``(n,)``; several points of a run in one cell are not siblings.
        where: describes the cell of a point, given its index.
    """
    level, runs = np.log(np.asarray(score, float)), np.asarray(runs).astype(str)
    points, pairs = [], []
    for cell in members(np.asarray(cells))[1]:
        values, kinds, run = level[cell], *np.unique(runs[cell], return_inverse=True)
        siblings = run[:, None] != run
        pairs.append(np.abs(values[:, None] - values)[np.triu(siblings)])      # each pair once: the median of all is the same
        whole = float(np.median(values)) if len(kinds) == len(cell) else None
        for k, i in enumerate(cell):
            middle = float(np.median(level[[i, *cell[siblings[k]]]])) if whole is None else whole
            points.append(_Point(str(runs[i]), "", partial(where, int(i)), float(level[i]), middle, len(kinds)))
    return _among(points, pairs)


def of_runs(sides: Sequence[Runs]) -> Outliers:
    """Outliers among the runs of each model and variant: each evaluation is compared with its siblings' scores at as many images.

    Between two evaluations a sibling's score is interpolated linearly in logarithms; it is undefined outside them. Without
    ``Runs.images`` they are compared at equal cost.
    """
    points, pairs = [], []
    for side in sides:
        at, unit = (side.cost, "cost") if side.images is None else (side.images, "images")
        for model in np.unique(side.models):
            rows = np.flatnonzero(side.models == model)
            names, own = members(side.runs[rows])
            curves = [_line(at[rows[i]], side.score[rows[i]]) for i in own]
            together = None
            if all(np.array_equal(curves[0][0], x) for x, _ in curves):        # as a rule: then nothing is to be interpolated
                together = np.array([y for _, y in curves])
                whole = np.median(together, axis=0)
            for k, (x, y) in enumerate(curves):
                if together is None:
                    others = np.array([np.interp(x, *line, left=np.nan, right=np.nan) for line in (*curves[:k], *curves[k + 1:])]).reshape(-1, len(x))
                    middles = np.nanmedian(np.vstack([y, others]), axis=0)
                else:
                    others, middles = np.delete(together, k, axis=0), whole
                there = np.isfinite(others)
                pairs.append(np.abs(others - y)[there])
                points += [_Point(str(names[k]), side.name, partial(_place, math.exp(x[i]), unit), float(y[i]), float(middles[i]),
                                  1 + int(there[:, i].sum())) for i in range(len(x))]
    return _among(points, pairs)


def of_law(columns: dict[str, np.ndarray], runs: np.ndarray, y: np.ndarray) -> Outliers:
    """Outliers among the points of a law; points with all variables equal to nine digits are siblings; ``(n,)`` each."""
    words = [", ".join(f"{name} = {column[i]:.4g}" for name, column in columns.items()) for i in range(len(y))]
    return of_points(y, distinct_points(columns), runs, lambda i: f"at {words[i]}")


def law_without(fit) -> str:
    """A sentence on the outliers of a ``result.Fit``: their names, the coefficients with and without them, and where the law changes most."""
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
    return f"{fit.outliers.sentence}. With and without {them}{state}: {moved}; the law changes by {shift[worst]:+.1%} at {at}"


def _line(at: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A run's points in logarithms, by x; several at one x are averaged."""
    x, where = np.unique(np.log(at), return_inverse=True)
    return x, np.bincount(where, np.log(score)) / np.bincount(where)


def _place(value: float, unit: str) -> str:
    return f"at {value:,.0f} images" if unit == "images" else f"at a cost of {value:.3g}"


class _Point(NamedTuple):
    """A point with the median of itself and its siblings, both ln score; ``runs`` counts theirs and its own."""

    run: str
    of: str
    where: Callable[[], str]
    level: float
    middle: float
    runs: int


def _among(points: list[_Point], pairs: list[np.ndarray]) -> Outliers:
    """Outliers among points, given the distances of all pairs of siblings."""
    distances = np.concatenate([*pairs, np.empty(0)])
    if not len(distances):
        return Outliers()
    sigma = float(np.median(distances)) / OF_NORMAL
    far: dict[tuple[str, str], list[Outlier]] = {}
    counts = Counter((point.run, point.of) for point in points)
    for run, of, where, level, middle, runs in points:
        away = abs(level - middle)
        if runs >= SIBLINGS and away >= THRESHOLD * sigma and away >= math.log(LEAST):
            far.setdefault((run, of), []).append(Outlier(run, of, where(), math.exp(level), math.exp(middle),
                                                         float(away / sigma) if sigma else math.inf, 0, counts[run, of]))
    worst = [replace(max(own, key=lambda one: one.deviation), times=len(own)) for own in far.values()]
    return Outliers(tuple(sorted(worst, key=lambda one: (-one.deviation, one.of, one.run))), sigma)
