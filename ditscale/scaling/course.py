"""Tests whether a multiplier holds over the whole range of scores that both variants passed, or changes sign.

A mean over the range hides a crossing: a variant that is cheaper early and dearer at the end can be cheaper on average. So the multiplier is
taken at many scores over the whole range, ends included, each with Welch's interval, and the mean is REAL only if

1. at every score the estimate is on the mean's side of one, if one model is used at all scores (errors of several are independent), and
2. either every interval excludes one, or there is no evidence that the multiplier changes over the range: neither the linear trend of
   ln CM over ln score nor its end against its mean, both computed per run, has a p under ``STEADY``. If it changes, its mean says
   nothing about its ends.

Otherwise the parts that are REAL by themselves are reported: TURNS if there are parts on both sides, IN PART if all are on one side.
``benchmarks/verdicts.py`` counts each verdict on simulated studies with a difference, without one, and with one that turns.
"""

import math
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from scipy import special

from ditscale.scaling.differences import INCONCLUSIVE, MIN_SEEDS, REAL
from ditscale.scaling.estimate import EXACT, AtTarget, Estimate, Pair, at_target, contrast, estimate
from ditscale.scaling.noise import Noise
from ditscale.scaling.reached import reach

TURNS, IN_PART = "TURNS", "IN PART"
LEVELS = 17                    # over the range: the ends of a part are known to 1/16 of it
LEAST_LEVELS = 2               # of a part: a single one has no length
STEADY = 0.1                   # a change with a larger p still allows one multiplier
CHANGES = 0.01                 # with a smaller p, a part may be REAL although the mean is not


@dataclass(frozen=True)
class Part:
    """Neighboring scores with the same finding, worse ``scores`` first; ``costs`` are the baseline's there.

    ``middle`` is the multiplier at the score in the middle; ``from_start`` and ``to_end`` say whether the part reaches the ends of
    the range.
    """

    mean: Estimate
    scores: tuple[float, float]
    costs: tuple[float, float]
    middle: AtTarget
    from_start: bool
    to_end: bool

    @property
    def real(self) -> bool:
        return self.mean.verdict == REAL

    @property
    def side(self) -> str:
        return "cheaper" if self.mean.value >= 1 else "dearer"

    def where(self, unit: str = "") -> str:
        """``up to fid 14.2``, ``from fid 13.1 on``, ``from fid 15 to 14``, or nothing for the whole range; without a unit numbers alone."""
        first, last = (f"{score:.3g}" for score in self.scores)
        unit = f"{unit} " if unit else ""
        if self.from_start:
            return "" if self.to_end else f"up to {unit}{last}"
        return f"from {unit}{first} on" if self.to_end else f"from {unit}{first} to {last}"


@dataclass(frozen=True)
class Course:
    """``points`` over the range, worst score first; ``parts`` cover the range in the same order.

    ``trend_p`` is the p of no trend, ``end_p`` that of the best scores agreeing with the mean; NaN with fewer than three seeds. ``passes_one`` are the
    scores between which the estimate changes sides.
    """

    points: tuple[AtTarget, ...]
    parts: tuple[Part, ...]
    trend_p: float
    end_p: float
    passes_one: tuple[tuple[float, float], ...]

    @property
    def change_p(self) -> float:
        """The smaller of the two p."""
        return min(self.trend_p, self.end_p)

    @property
    def real_parts(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.real)

    def judge(self, overall: dict) -> dict:
        """Verdict and reason of the mean over the targets, considering the whole range; other fields are unchanged."""
        if min(overall["seeds"]) < MIN_SEEDS:
            turn = f"; the estimate passes one {self.passing}" if len(self.passes_one) == 1 else ""
            return overall | {"reason": overall["reason"] + turn}
        real, sides = overall["verdict"] == REAL, {part.side for part in self.real_parts}
        if len(sides) == 2 and self.change_p < STEADY:
            return overall | {"verdict": TURNS, "reason": f"the estimate passes one {self.passing}"}
        if real and self._holds(overall["value"]):
            return overall | {"reason": f"{overall['reason']}, and it holds over the whole range"}
        if sides and (real or self.change_p < CHANGES):
            return overall | {"verdict": IN_PART, "reason": f"it changes over the range{self._passed()}"}
        if real:
            reason = f"the interval of the mean excludes one, but the multiplier changes over the range{self._passed()}"
            return overall | {"verdict": INCONCLUSIVE, "reason": reason}
        return overall

    @property
    def passing(self) -> str:
        return " and ".join(f"between {first:.3g} and {last:.3g}" for first, last in self.passes_one)

    def _passed(self) -> str:
        if len(self.passes_one) == 1:
            return f" and passes one {self.passing}"
        return f" and passes one {len(self.passes_one)} times" if self.passes_one else ""

    def _holds(self, mean: float) -> bool:
        one_model = len({(at.variant_model, at.baseline_model) for at in self.points}) == 1
        alike = all((at.value > 1) == (mean > 1) for at in self.points)
        everywhere = alike and all(at.verdict == REAL for at in self.points)
        return everywhere or (self.change_p > STEADY and (alike or not one_model))


def course(curves: tuple[list, list], levels: np.ndarray, window: float, sign: float, noise: Noise | None) -> Course | None:
    """The multiplier over a range.

    Args:
        curves: of variant and baseline; levels: ``(k,)``, highest first; window, sign: as for ``reach`` and ``Curve.level``.

    Returns:
        None if fewer than two of the levels were passed by both.
    """
    found = [(level, reach(curves, level, window)) for level in levels]
    pairs = [pair for _, pair in found if all(side.status.ok for side in pair)]
    points = tuple(at_target(math.exp(sign * level), pair, noise) for level, pair in found if all(side.status.ok for side in pair))
    if len(pairs) < 2:
        return None
    passes = tuple((a.target, b.target) for a, b in zip(points, points[1:]) if (a.value > 1) != (b.value > 1))
    trend, end = math.nan, math.nan
    if min(len(side.log_costs) for pair in pairs for side in pair) >= MIN_SEEDS:
        count = len(pairs)
        last = np.where(np.arange(count) >= count - LEAST_LEVELS, 1 / LEAST_LEVELS, 0.0)
        trend, end = _p(pairs, np.linspace(-1, 1, count) / count), _p(pairs, last - 1 / count)
    return Course(points, _parts(points, pairs, noise), trend, end, passes)


def _p(pairs: list[Pair], weights: np.ndarray) -> float:
    """The p of a contrast of ln CM being zero, by contrasts per run, which cancel the error shared within a run; weights ``(levels,)``."""
    value, sigma, freedom = contrast(pairs, weights)
    if abs(value) < EXACT:
        return 1.0
    return float(2 * special.stdtr(freedom, -abs(value) / sigma)) if sigma else 0.0


def _parts(points: tuple[AtTarget, ...], pairs: list[Pair], noise: Noise | None) -> tuple[Part, ...]:
    """The range split where the finding changes: REAL cheaper, REAL dearer, or neither."""
    kinds = [0 if at.verdict != REAL else 1 if at.value > 1 else -1 for at in points]
    runs = [(kind, len(list(own))) for kind, own in groupby(kinds)]
    kinds = [kind if length >= LEAST_LEVELS else 0 for kind, length in runs for _ in range(length)]
    made, start = [], 0
    for _, own in groupby(kinds):
        stop = start + len(list(own))
        first, last = points[start], points[stop - 1]
        mean = estimate(pairs[start:stop], noise)
        if not kinds[start] and mean["verdict"] == REAL:
            mean |= {"verdict": INCONCLUSIVE, "reason": "at each score the interval contains one"}
        made.append(Part(Estimate(**mean), (first.target, last.target), (first.baseline_cost, last.baseline_cost),
                         points[(start + stop - 1) // 2], start == 0, stop == len(points)))
        start = stop
    return tuple(made)
