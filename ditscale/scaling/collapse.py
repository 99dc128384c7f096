"""Scaling collapse: is a running job off the track of its smaller siblings?

Over the share x of training done, l(x) = (L(x) - L_floor) / (L(1) - L_floor). Runs of different size that are trained equally long for their size have
one l(x) (Qiu et al. 2025, arXiv 2507.02119), so finished runs give a band for a run that is still training. All is in ln l:

- each finished run is divided by its own end; the middle is the mean over sizes of the means over seeds;
- sigma, constant after ``FROM`` of training, is the spread over seeds of one size, or without seeds the spread over sizes (``Band.of``);
- as sizes only nearly coincide, the band also allows what they differ: the largest distance of a size from the middle, or the trend over ln size
  extended to the job's size, whichever is larger;
- the running job is divided by its predicted end; the prediction's own interval is the last part. The parts are added in quadrature.

"3 sigma" is Student's t at the same probability, 0.27 %, as sigma comes from few runs. A job is off track when all its evaluations over more than
``LASTING`` of training, at least two, are on one side outside the band.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from ditscale.scaling.interval import LEVEL, Interval

FROM = 0.15                # share of training before which nothing is judged
LASTING = 0.02             # share of training over which a job must be outside
SIGMAS = 3.0
LEAST_RUNS, LEAST_SIZES = 3, 2
GRID = np.linspace(FROM, 1.0, 18)
SEEDS, SIZES = "seeds of one size", "sizes"


@dataclass(frozen=True, eq=False)
class Course:
    """A run's losses over the share of its training done, ``(k,)`` each, increasing in share."""

    run: str
    size: float
    share: np.ndarray
    loss: np.ndarray

    @classmethod
    def of(cls, run: str, size: float, losses: dict[float, float]) -> "Course":
        """From the loss at each share."""
        share = np.array(sorted(losses), dtype=float)
        return cls(run, size, share, np.array([losses[x] for x in share], dtype=float))

    def log_excess(self, floor: float) -> np.ndarray:
        """ln (loss - floor); a loss at or below the floor counts as a thousandth of the last excess above it."""
        excess = self.loss - floor
        least = excess[excess > 0].min(initial=math.inf)
        return np.log(np.where(excess > 0, excess, least / 1000 if math.isfinite(least) else 1e-12))

    def shape(self, floor: float, at: np.ndarray) -> np.ndarray:
        """ln l at shares, linear in ln x between evaluations; NaN outside them."""
        logs = self.log_excess(floor)
        inside = (at >= self.share[0] * (1 - 1e-9)) & (at <= self.share[-1] * (1 + 1e-9))
        return np.where(inside, np.interp(np.log(at), np.log(self.share), logs) - logs[-1], np.nan)


@dataclass(frozen=True, eq=False)
class Band:
    """``sigma`` of ln l of one more run, from ``freedom`` degrees of freedom, by the spread over ``of``."""

    rungs: tuple[Course, ...]
    floor: float
    sigma: float
    freedom: int
    of: str

    def middle(self, share: np.ndarray) -> np.ndarray:
        """The mean ln l over sizes; NaN where a size has no run."""
        return _by_size(self.rungs, self.floor, share)[0].mean(0)

    def reach(self, share: np.ndarray, size: float) -> np.ndarray:
        """The half width of the band of ln l at "3 sigma", for one new run of a size."""
        means = _by_size(self.rungs, self.floor, share)[0]
        sizes = np.log(sorted({rung.size for rung in self.rungs}))
        from_middle, centered = means - means.mean(0), sizes - sizes.mean()
        trend = centered @ from_middle / (centered @ centered) * (math.log(size) - sizes.mean())
        allowed = np.maximum(np.abs(trend), np.abs(from_middle).max(0))
        return np.hypot(_sigmas(self.freedom) * self.sigma * math.sqrt(1 + 1 / len(means)), allowed)


@dataclass(frozen=True)
class OffTrack:
    """A job that is outside the band. ``since`` and ``share`` are shares of training; ``sigmas`` and ``ratio`` (loss / the band's middle) are now."""

    run: str
    since: float
    share: float
    sigmas: float
    ratio: float


def band(rungs: list[Course], floor: float) -> Band | None:
    """The band of finished runs; None with fewer than three runs or two sizes that were evaluated over ``FROM`` to 1.

    Args:
        rungs: whole courses: the last share is 1.
        floor: L_floor of the law of the rungs, below every loss; 0 if the law has none.
    """
    kept = tuple(rung for rung in rungs if rung.share[0] <= FROM * (1 + 1e-9) and len(rung.share) > 2 and rung.loss.min() > floor)
    if len(kept) < LEAST_RUNS or len({rung.size for rung in kept}) < LEAST_SIZES:
        return None
    means, within, freedom = _by_size(kept, floor, GRID)
    if freedom:
        return Band(kept, floor, _rms(np.sqrt(within / freedom)), freedom, SEEDS)
    return Band(kept, floor, _rms(means.std(0, ddof=1)), len(means) - 1, SIZES)


def off_track(band: Band, job: Course, end: float, interval: Interval, freedom: int) -> OffTrack | None:
    """Whether a running job has left the band and is still outside; None if not, or if that cannot be said yet.

    Args:
        job: its evaluations so far.
        end, interval, freedom: the loss predicted for its end, with the 95 % interval for one run and its degrees of freedom.
    """
    judged = job.share >= FROM * (1 - 1e-9)
    if judged.sum() < 2 or not band.floor < end:
        return None
    share, logs = job.share[judged], job.log_excess(band.floor)[judged]
    off = logs - math.log(end - band.floor) - band.middle(share)
    reach = np.hypot(band.reach(share, job.size), _end_reach(band.floor, end, interval, freedom))
    side = np.sign(off) * (np.abs(off) > reach)                                # 0 inside; comparisons with NaN are False
    outside = side == side[-1]
    first = len(side) - int(np.argmin(outside[::-1])) if not outside.all() else 0
    if not side[-1] or first == len(side) - 1 or share[-1] - share[first] <= LASTING:
        return None
    expected = band.floor + math.exp(logs[-1] - off[-1])
    return OffTrack(job.run, float(share[first]), float(share[-1]), float(SIGMAS * abs(off[-1]) / reach[-1]),
                    float(job.loss[judged][-1] / expected))


def _by_size(rungs: tuple[Course, ...], floor: float, share: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The mean ln l of each size, (sizes, k); the sum of squares within sizes, (k,); and its degrees of freedom."""
    groups = [np.array([rung.shape(floor, share) for rung in rungs if rung.size == size]) for size in sorted({rung.size for rung in rungs})]
    means = np.array([group.mean(0) for group in groups])
    within = sum(((group - mean) ** 2).sum(0) for group, mean in zip(groups, means, strict=True))
    return means, np.asarray(within), sum(len(group) - 1 for group in groups)


def _end_reach(floor: float, end: float, interval: Interval, freedom: int) -> float:
    """The half width of ln (L(1) - L_floor) of the prediction, at "3 sigma"; its wider side."""
    low = max(interval.low - floor, (end - floor) / 1000)
    wider = max(math.log((interval.high - floor) / (end - floor)), math.log((end - floor) / low))
    return wider * _sigmas(freedom) / float(special.stdtrit(freedom, 0.5 + LEVEL / 2))


def _sigmas(freedom: int) -> float:
    """Student's quantile with the probability of 3 sigma of a normal distribution."""
    return float(special.stdtrit(freedom, special.ndtr(SIGMAS)))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
