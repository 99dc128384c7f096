"""The compute multiplier: how many times cheaper a variant reaches a score than the baseline, CM(f) = C_baseline(f) / C_variant(f).

Each run gives ln C at the target on its own curve. The interval is Student's t on these with Welch's degrees of freedom:
runs are the repetitions. Checkpoints are not, as their errors are correlated within a run; and with three seeds a percentile
bootstrap is far too narrow (``benchmarks/coverage_multiplier.py`` prints both). ``estimate`` makes one estimate; ``course`` tests
whether the mean holds over the whole range that both variants passed.

If variants have several models, the cost of a target is the lowest over the models with which both pass it (``reached``).
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ditscale.scaling.cards import multiplier_card
from ditscale.scaling.course import IN_PART, LEVELS, TURNS, Course, Part, course
from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import INCONCLUSIVE, REAL
from ditscale.scaling.drawing import draw_curves, draw_multiplier
from ditscale.scaling.estimate import AtTarget, Estimate, at_target, estimate, nothing
from ditscale.scaling.noise import Noise
from ditscale.scaling.outliers import Outliers, of_runs
from ditscale.scaling.reached import reach, span
from ditscale.scaling.status import Status

DEFAULT_TARGETS = 5
MIN_TARGETS = 3
NOT_REACHED = "NOT REACHED"                                                    # no multiplier, and not for want of seeds


@dataclass(frozen=True)
class Multiplier:
    """``overall`` is the geometric mean over the usable targets; ``score_range`` is where both variants were measured.

    Its verdict is REAL only if it holds over that whole range; otherwise TURNS or IN PART, and ``course`` has the parts.
    ``outliers`` names runs far from their siblings; they count, and ``without`` is the multiplier without them, None where there are
    none. ``left_out``: the models used, if others had too few seeds. ``behind``: where there is no multiplier as one of the two never
    reaches the other's first measured score, its name; more seeds would not change that.
    """

    status: Status
    detail: str
    variant: str
    baseline: str
    cost_unit: str
    score_unit: str
    overall: Estimate
    targets: tuple[AtTarget, ...] = ()
    score_range: tuple[float, float] = (math.nan, math.nan)
    noise: Noise | None = None
    course: Course | None = None
    outliers: Outliers = Outliers()
    without: "Multiplier | None" = None
    left_out: str = ""
    behind: str = ""
    data: tuple[Runs, Runs] | None = field(default=None, repr=False, compare=False)

    @property
    def sentence(self) -> str:
        """The verdict in words; if there are outliers, also their names and the verdict without them."""
        found = self.outliers.add_to(self.verdict_sentence.rstrip(".") if self.without else self.verdict_sentence, self.without)
        return f"{found.rstrip('.')}. {self.left_out}." if self.left_out else found

    @property
    def verdict_sentence(self) -> str:
        """The verdict on all runs, in words."""
        if not self.status.ok:
            return f"{NOT_REACHED if self.behind else INCONCLUSIVE}: {self.variant} over {self.baseline}: {self.why}"
        found, bounds = self.overall, self.overall.interval
        between = f", 95 % interval {bounds.low:.3g} to {bounds.high:.3g}" if bounds else ""
        flat = " The curve is flat at a target: noise decides there." if any(at.flat for at in self.targets) else ""
        seeds = f"{found.seeds[0]} and {found.seeds[1]} seeds"
        if self.in_parts:
            return (f"{found.verdict}: for the same {self.score_unit} {self.variant} is {self.parts_sentence}, and elsewhere the data are "
                    f"INCONCLUSIVE; {found.reason}; over all targets multiplier {found.value:.3g}{between}; {seeds}.{flat}")
        return (f"{found.verdict}: for the same {self.score_unit} {self.variant} takes {1 / found.value:.3g} times the {self.cost_unit} "
                f"of {self.baseline} (multiplier {found.value:.3g}{between}); {found.reason}; {seeds}.{flat}")

    @property
    def why(self) -> str:
        """Why there is no multiplier."""
        return self.detail if self.behind else self.status.because(self.detail)

    @property
    def in_parts(self) -> bool:
        """Whether the verdict is on parts of the range (``course.real_parts``) and not on the whole range."""
        return self.overall.verdict in (TURNS, IN_PART)

    @property
    def parts_sentence(self) -> str:
        """``cheaper up to a fid of 14.5 (4.2e+17 training FLOPs of baseline): REAL, multiplier 1.5, ...; dearer from ...``."""
        return "; ".join(self._part_sentence(part) for part in self.course.real_parts)

    def _part_sentence(self, part: Part) -> str:
        first, last = (f"a {self.score_unit} of {score:.3g} ({cost:.3g} {self.cost_unit} of {self.baseline})"
                       for score, cost in zip(part.scores, part.costs))
        where = f"up to {last}" if part.from_start else f"from {first} on" if part.to_end else f"from {first} to {last}"
        bounds = part.mean.interval
        return (f"{part.side} {where}, REAL with a multiplier of {part.mean.value:.3g}, 95 % interval {bounds.low:.3g} to "
                f"{bounds.high:.3g}")

    def card(self) -> dict:
        """Everything needed to quote or check the multiplier, ready for JSON: missing numbers are None."""
        return multiplier_card(self)

    def plot(self, ax) -> None:
        """Draws the multiplier against the target with intervals, and the overall band, on matplotlib axes."""
        draw_multiplier(ax, self)

    def plot_curves(self, ax) -> None:
        """Draws score against cost, one line per run, with an arrow from baseline to variant at the middle target."""
        draw_curves(ax, self)


def multiplier(variant: Runs, baseline: Runs, targets=None, *, noise: Noise | None = None, cost_unit: str = "cost",
               score_unit: str = "score") -> Multiplier:
    """The compute multiplier of one variant over another.

    Args:
        targets: scores; default five, evenly spaced in logarithms over the middle 70 % of the range that both variants cover.
        noise: seed noise of ln score, pooled over more than these runs; it replaces the spread of these runs in the interval, which
            narrows it if there are few seeds. It does not replace seeds: each variant still needs three.
        cost_unit, score_unit: names of cost and score.

    Returns:
        a ``Multiplier``; if the data do not support one, its ``status`` says why and ``overall`` is empty.
    """
    assert variant.lower_is_better == baseline.lower_is_better, "the two variants must have the same kind of score"
    facts: dict[str, Any] = {"variant": variant.name, "baseline": baseline.name, "cost_unit": cost_unit, "score_unit": score_unit, "noise": noise,
             "data": (variant, baseline)}
    bad = variant.first_bad() or baseline.first_bad()
    if bad or not len(variant.cost) or not len(baseline.cost):
        return Multiplier(Status.BAD_DATA, bad or "a variant without a run", overall=nothing(Status.BAD_DATA), **facts)
    far = of_runs((variant, baseline))
    if far.found:
        others = [side.without(far.runs_of(side.name)) for side in (variant, baseline)]
        facts |= {"outliers": far, "without": multiplier(others[0], others[1], targets, noise=noise and (noise.without or noise), cost_unit=cost_unit,
                                                         score_unit=score_unit)}
    curves, sign = (variant.curves(), baseline.curves()), 1.0 if variant.lower_is_better else -1.0
    low, high = (pick(ends) for pick, ends in zip((max, min), zip(*map(span, curves))))
    window = max(0.0, (high - low) / 8)
    levels: list | np.ndarray
    if targets is None:
        levels = _default_levels(curves, low, high) if low < high else []
    else:
        targets = np.atleast_1d(np.asarray(targets, float))
        assert (targets > 0).all(), "targets are scores above 0"
        levels = sign * np.log(targets)
    found = [reach(curves, level, window) for level in levels]
    at = tuple(at_target(math.exp(sign * level), pair, noise) for level, pair in zip(levels, found))
    usable = [pair for pair in found if all(side.status.ok for side in pair)]
    ends = math.exp(sign * low), math.exp(sign * high)
    edges = min(ends), max(ends)
    if not usable:
        rising = [curve.run for side in curves for curve in side if len(curve.level) == 1 and curve.last_log_cost > curve.log_cost[0]]
        behind, first = _behind(variant, baseline, curves, sign) if low >= high else ("", math.nan)
        other = baseline.name if behind == variant.name else variant.name
        detail = (f"both were measured from {edges[0]:.4g} to {edges[1]:.4g}" if low < high
                  else f"run '{rising[0]}' ends worse than it began, so it has no decreasing curve" if rising
                  else f"{behind} never reaches the {score_unit} of {first:.4g} with which {other} begins, so no cost can be compared" if behind
                  else "the best score of one is worse than the first of the other")
        return Multiplier(Status.NO_COMMON_RANGE, detail, overall=nothing(Status.NO_COMMON_RANGE), targets=at, behind=behind,
                          score_range=edges if low < high else (math.nan, math.nan), **facts)
    whole = course(curves, np.linspace(high, low, LEVELS), window, sign, noise)
    return Multiplier(Status.CONVERGED, "", overall=_judged(estimate(usable, noise), len(usable), whole), targets=at, score_range=edges,
                      course=whole, **facts)


def _behind(variant: Runs, baseline: Runs, curves, sign: float) -> tuple[str, float]:
    """The side all of whose runs end worse, at a higher cost, than every run of the other begins, and the other's worst first score; ("", NaN) if
    neither is."""
    for (name, own), (_, other) in (((variant.name, curves[0]), (baseline.name, curves[1])), ((baseline.name, curves[1]), (variant.name, curves[0]))):
        first = max(curve.start for curve in other)
        if min(curve.end for curve in own) >= first and min(curve.last_log_cost for curve in own) > max(curve.log_cost[0] for curve in other):
            return name, math.exp(sign * first)
    return "", math.nan


def _judged(overall: dict, targets: int, whole: Course | None) -> Estimate:
    """A mean is REAL if it holds over the whole range and is based on enough targets."""
    if whole is not None:
        overall = whole.judge(overall)
    if targets < MIN_TARGETS and overall["verdict"] == REAL:
        overall |= {"verdict": INCONCLUSIVE, "reason": f"{targets} targets are too few for a curve; {MIN_TARGETS} are needed"}
    return Estimate(**overall)


def _default_levels(curves, low: float, high: float) -> np.ndarray:
    """Five levels, evenly spaced within the middle 70 % of those that both variants pass; with several models there may be gaps."""
    margin = 0.15 * (high - low)
    if all(curve.model == curves[0][0].model for own in curves for curve in own):
        return np.linspace(low + margin, high - margin, DEFAULT_TARGETS)
    tried = np.linspace(low + margin, high - margin, 4 * (DEFAULT_TARGETS - 1) + 1)
    usable = [level for level in tried if all(side.status.ok for side in reach(curves, level, margin))] or tried
    return np.asarray(usable)[np.linspace(0, len(usable) - 1, min(DEFAULT_TARGETS, len(usable))).round().astype(int)]
