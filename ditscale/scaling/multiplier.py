"""How many times cheaper one variant reaches a score than another: CM(f) = C_baseline(f) / C_variant(f).

Each run gives ln C at the target on its own curve. The interval is Student's t on these, with Welch's degrees of freedom:
runs are the repetitions. Checkpoints are not, as those of a run share its luck; and with three seeds a percentile
bootstrap is far too narrow (``benchmarks/coverage_multiplier.py`` prints both). Several targets share their runs, so their
mean is taken run by run before its spread is.

Where variants have several models, the cost of a target is the least over the models that both pass it with (``reached``).
"""

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import INCONCLUSIVE, MIN_SEEDS, REAL
from ditscale.scaling.intervals import LEVEL, Interval
from ditscale.scaling.noise import Noise
from ditscale.scaling.reached import Reached, reach, span
from ditscale.scaling.status import Status

DEFAULT_TARGETS = 5
MIN_TARGETS = 3
FLAT = 0.1                     # |d ln score / d ln cost| under which a little noise in the score is a lot in the cost
NO_SEEDS = (0, 0)


@dataclass(frozen=True)
class Estimate:
    """A multiplier, above 1 where the variant is cheaper. ``sigma`` is the standard error of its logarithm.

    NaN, without an interval, where ``status`` is not CONVERGED; without an interval also where seeds are too few.
    """

    value: float
    interval: Interval | None
    sigma: float
    freedom: float
    verdict: str
    reason: str
    seeds: tuple[int, int]                                                     # variant, baseline; the fewest of any model used
    status: Status = Status.CONVERGED


@dataclass(frozen=True)
class AtTarget(Estimate):
    """The multiplier at one score.

    ``slope`` is d ln score / d ln cost there, that of the flatter variant; ``delta_sigma`` is what the noise of the
    scores makes of it, CoV sqrt(1/n1 + 1/n2) / |slope|: a check on ``sigma``, and far from it where a curve is bent or broken.
    """

    target: float = math.nan
    variant_cost: float = math.nan                                             # geometric mean over seeds
    baseline_cost: float = math.nan
    variant_model: str = ""
    baseline_model: str = ""
    slope: float = math.nan
    delta_sigma: float = math.nan

    @property
    def flat(self) -> bool:
        """Whether the curve is so flat that the noise of the score decides."""
        return abs(self.slope) < FLAT


@dataclass(frozen=True)
class Multiplier:
    """``overall`` is the geometric mean over the usable targets; ``score_range`` is where both variants were measured."""

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
    data: tuple[Runs, Runs] | None = field(default=None, repr=False, compare=False)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if not self.status.ok:
            why = self.status.because(self.detail)
            return f"INCONCLUSIVE: {self.variant} over {self.baseline}: {why}"
        found, bounds = self.overall, self.overall.interval
        between = f", 95 % interval {bounds.low:.3g} to {bounds.high:.3g}" if bounds else ""
        flat = " The curve is flat at a target: noise decides there." if any(at.flat for at in self.targets) else ""
        seeds = f"{found.seeds[0]} and {found.seeds[1]} seeds"
        return (f"{found.verdict}: for the same {self.score_unit} {self.variant} takes {1 / found.value:.3g} times the {self.cost_unit} "
                f"of {self.baseline} (multiplier {found.value:.3g}{between}); {found.reason}; {seeds}.{flat}")

    def card(self) -> dict:
        """Everything needed to quote or doubt the multiplier, ready for JSON: absent numbers are None."""
        from ditscale.scaling.cards import multiplier_card
        return multiplier_card(self)

    def plot(self, ax) -> None:
        """Multiplier against target with intervals, and the overall band, on matplotlib axes."""
        from ditscale.scaling.drawing import draw_multiplier
        draw_multiplier(ax, self)

    def plot_curves(self, ax) -> None:
        """Score against cost, a line a run, with an arrow from baseline to variant at the middle target."""
        from ditscale.scaling.drawing import draw_curves
        draw_curves(ax, self)


def multiplier(variant: Runs, baseline: Runs, targets=None, *, noise: Noise | None = None, cost_unit: str = "cost",
               score_unit: str = "score") -> Multiplier:
    """The compute multiplier of one variant over another.

    Args:
        targets: scores; by default five, evenly apart in logarithms over the middle 70 % of what both variants cover.
        noise: seed noise of ln score, pooled over more than these runs; replaces their own spread in the interval, which
            narrows it where seeds are few. It does not replace seeds: each variant needs three of its own.
        cost_unit, score_unit: what cost and score are called.

    Returns:
        a ``Multiplier``; where the data cannot carry one, its ``status`` says why and ``overall`` is empty.
    """
    assert variant.lower_is_better == baseline.lower_is_better, "the two variants have scores of two kinds"
    facts = {"variant": variant.name, "baseline": baseline.name, "cost_unit": cost_unit, "score_unit": score_unit,
             "noise": noise, "data": (variant, baseline)}
    bad = variant.first_bad() or baseline.first_bad()
    if bad or not len(variant.cost) or not len(baseline.cost):
        return Multiplier(Status.BAD_DATA, bad or "a variant without a run", overall=_nothing(Status.BAD_DATA), **facts)
    curves, sign = (variant.curves(), baseline.curves()), 1.0 if variant.lower_is_better else -1.0
    low, high = (pick(ends) for pick, ends in zip((max, min), zip(*map(span, curves))))
    window = max(0.0, (high - low) / 8)
    if targets is None:
        levels = _default_levels(curves, low, high) if low < high else []
    else:
        targets = np.atleast_1d(np.asarray(targets, float))
        assert (targets > 0).all(), "targets are scores above 0"
        levels = sign * np.log(targets)
    found = [reach(curves, level, window) for level in levels]
    at = tuple(_at_target(math.exp(sign * level), pair, noise) for level, pair in zip(levels, found))
    usable = [pair for pair in found if all(side.status.ok for side in pair)]
    edges = tuple(sorted((math.exp(sign * low), math.exp(sign * high))))
    if not usable:
        detail = (f"both were measured from {edges[0]:.4g} to {edges[1]:.4g}" if low < high
                  else "one ends, at its best, before the other begins")
        return Multiplier(Status.NO_COMMON_RANGE, detail, overall=_nothing(Status.NO_COMMON_RANGE), targets=at,
                          score_range=edges if low < high else (math.nan, math.nan), **facts)
    overall = _estimate([pair[0] for pair in usable], [pair[1] for pair in usable], noise)
    if len(usable) < MIN_TARGETS and overall["verdict"] == REAL:
        overall |= {"verdict": INCONCLUSIVE, "reason": f"{len(usable)} targets say little of a curve, {MIN_TARGETS} are needed"}
    return Multiplier(Status.CONVERGED, "", overall=Estimate(**overall), targets=at, score_range=edges, **facts)


def _default_levels(curves, low: float, high: float) -> np.ndarray:
    """Five levels, evenly apart among those of the middle 70 % that both variants pass: with several models there may be gaps."""
    margin = 0.15 * (high - low)
    if all(curve.model == curves[0][0].model for own in curves for curve in own):
        return np.linspace(low + margin, high - margin, DEFAULT_TARGETS)
    tried = np.linspace(low + margin, high - margin, 4 * (DEFAULT_TARGETS - 1) + 1)
    usable = [level for level in tried if all(side.status.ok for side in reach(curves, level, margin))] or tried
    return np.asarray(usable)[np.linspace(0, len(usable) - 1, min(DEFAULT_TARGETS, len(usable))).round().astype(int)]


def _at_target(target: float, pair: tuple[Reached, Reached], noise: Noise | None) -> AtTarget:
    for side in pair:
        if not side.status.ok:
            return AtTarget(math.nan, None, math.nan, math.nan, INCONCLUSIVE, side.detail, NO_SEEDS, side.status, target)
    variant, baseline = pair
    own = math.hypot(*(side.sigma_of_level for side in pair)) / math.sqrt(2)
    delta = _delta_sigma([variant], [baseline], noise.sigma if noise else own)
    return AtTarget(**_estimate([variant], [baseline], noise), target=target, variant_cost=math.exp(variant.log_cost),
                    baseline_cost=math.exp(baseline.log_cost), variant_model=variant.model, baseline_model=baseline.model,
                    slope=max(variant.slope, baseline.slope), delta_sigma=delta)


def _estimate(variant: list[Reached], baseline: list[Reached], noise: Noise | None) -> dict:
    """Value, interval and verdict of the mean of ln CM over targets, each given by what the two variants took."""
    log_value = float(np.mean([b.log_cost for b in baseline]) - np.mean([v.log_cost for v in variant]))
    seeds = tuple(min(len(at.log_costs) for at in side) for side in (variant, baseline))
    if min(seeds) < MIN_SEEDS:
        reason = "one seed gives no estimate of the noise" if min(seeds) == 1 else f"{min(seeds)} seeds are too few for an interval"
        return {"value": math.exp(log_value), "interval": None, "sigma": math.nan, "freedom": 0.0, "verdict": INCONCLUSIVE,
                "reason": reason, "seeds": seeds}
    if noise is None:
        sigma, freedom = welch([values for side in (variant, baseline) for values in _by_model(side)])
    else:
        sigma, freedom = _delta_sigma(variant, baseline, noise.sigma), float(noise.freedom)
    half = stats.t.ppf(0.5 + LEVEL / 2, freedom) * sigma if sigma else 0.0
    interval = Interval(math.exp(log_value - half), math.exp(log_value + half))
    real = 1.0 not in interval
    return {"value": math.exp(log_value), "interval": interval, "sigma": sigma, "freedom": freedom, "seeds": seeds,
            "verdict": REAL if real else INCONCLUSIVE, "reason": "the interval leaves out one" if real else "the interval holds one"}


def _by_model(side: list[Reached]) -> list[np.ndarray]:
    """For each model used, what each of its runs adds to the mean of ln C over targets: shared runs are counted once."""
    parts: dict[str, np.ndarray] = {}
    for at in side:
        parts[at.model] = parts.get(at.model, 0.0) + at.log_costs / len(side)
    return list(parts.values())


def welch(parts: list[np.ndarray]) -> tuple[float, float]:
    """Standard error of a sum of independent means, and its degrees of freedom (Welch and Satterthwaite)."""
    variances = np.array([part.var(ddof=1) / len(part) for part in parts])
    if not variances.sum():
        return 0.0, float(sum(len(part) - 1 for part in parts))
    freedom = variances.sum() ** 2 / sum(v**2 / (len(part) - 1) for v, part in zip(variances, parts))
    return float(math.sqrt(variances.sum())), float(freedom)


def _delta_sigma(variant: list[Reached], baseline: list[Reached], sigma: float) -> float:
    """The standard error of ln CM that noise ``sigma`` of ln score makes, a run's luck being that of all its checkpoints."""
    variance = 0.0
    for side in (variant, baseline):
        weights: dict[str, float] = {}
        for at in side:
            weights[at.model] = weights.get(at.model, 0.0) + 1.0 / abs(at.slope) / len(side)
        runs = {at.model: len(at.log_costs) for at in side}
        variance += sum((sigma * weight) ** 2 / runs[model] for model, weight in weights.items())
    return math.sqrt(variance)


def _nothing(status: Status) -> Estimate:
    return Estimate(math.nan, None, math.nan, math.nan, INCONCLUSIVE, status.sentence, NO_SEEDS, status)
