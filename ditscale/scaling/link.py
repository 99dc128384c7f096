"""From loss to score: ``ln (S - S_inf) = c + g ln (L - L_inf)`` through the checkpoints of all runs, and whether all sizes lie on one line.

Loss alone may not determine a score: at equal loss a large and a small model may differ in sample quality (Abra, arXiv 2608.17286,
finds a different best size for each metric). So the line comes with an F test: do sizes differ at equal loss by more than runs of one size
do? If so, the loss does not determine the score, and ``predict`` uses a law of the score itself.

Runs are the independent units: each has the same weight, the uncertainty of the line comes from leaving out one run at a time (jackknife), and a
new run deviates from the line as these runs do. Both floors are free unless pinned, and often zero: within the data they trade off against
the exponent with little effect on the line.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.optimize import least_squares

from ditscale.errors import UserError, count
from ditscale.scaling import inputs
from ditscale.scaling.interval import LEVEL, Interval

SIGNIFICANT = 0.01         # below this p sizes differ at equal loss; the limit for a lack of fit is the same
SHARES = np.array([0.0, 0.4, 0.7, 0.85, 0.95])       # of the lowest loss and score: starting points for the floors
HIGHEST = 0.99             # the largest allowed floor as a share of the lowest value
STEEPEST = 60.0
LEAST_RUNS = 3


@dataclass(frozen=True)
class OneLine:
    """Whether sizes lie on one line. ``p`` is None if it cannot be tested; ``reason`` says why.

    ``spread`` is the standard deviation of ln score between sizes at equal loss.
    """

    p: float | None = None
    f: float | None = None
    freedom: tuple[float, float] | None = None
    spread: float = math.nan
    reason: str = ""

    @property
    def refused(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANT

    @property
    def sentence(self) -> str:
        if self.p is None:
            return f"it was not possible to test whether sizes lie on one line: {self.reason}"
        what = f"F = {self.f:.3g}, p = {self.p:.2g} against runs of one size; sizes differ by {self.spread:.1%}"
        return f"loss does not determine the score here ({what})" if self.refused else f"sizes lie on one line ({what})"

    def card(self) -> dict:
        return {"p": self.p, "F": self.f, "freedom": self.freedom and list(self.freedom), "refused": self.refused, "sentence": self.sentence,
                "spread_of_ln": None if math.isnan(self.spread) else self.spread, "refused_below_p": SIGNIFICANT}


@dataclass(frozen=True, eq=False)
class Link:
    """The line and its data. ``hold_out`` is predicted / observed - 1 for the largest size's ends from the others' line; None with two sizes."""

    loss_floor: float
    score_floor: float
    exponent: float
    coefficient: float                                                         # K = e^c of S = S_inf + K (L - L_inf)^g
    one_line: OneLine
    noise: float                                                               # standard deviation of ln score of one checkpoint
    freedom: int
    runs: int
    hold_out: float | None
    without_one: np.ndarray                                                    # (runs, 4): the line's coefficients without each run

    def score(self, loss) -> np.ndarray:
        """The line's score at losses; the score floor at and below the loss floor."""
        return _line(np.array([self.loss_floor, self.score_floor, self.exponent, math.log(self.coefficient)]), np.asarray(loss, np.float64))

    def interval(self, loss: float, between: Interval | None = None) -> Interval:
        """The interval for the score of a run with this loss; with ``between``, for a run with its loss forecast in that interval.

        The forecast's error and the line's are independent and added in quadrature on each side.
        """
        middle = float(self.score(loss))
        others = np.log([_line(theta, np.float64(loss)) for theta in self.without_one])
        jackknife = (self.runs - 1) / self.runs * np.sum((others - others.mean()) ** 2)
        own = special.stdtrit(self.freedom, 0.5 + LEVEL / 2) * math.sqrt(jackknife + self.noise**2)
        ends = [float(self.score(end)) for end in (between.low, between.high)] if between else [middle, middle]
        low, high = (math.hypot(math.log(end / middle), own) for end in ends)
        return Interval(middle * math.exp(-low), middle * math.exp(high))

    def card(self) -> dict:
        return {"form": "S = S_inf + K (L - L_inf)^g", "L_inf": self.loss_floor, "S_inf": self.score_floor, "g": self.exponent,
                "K": self.coefficient, "one_line": self.one_line.card(), "noise_of_ln": self.noise, "runs": self.runs,
                "freedom": self.freedom, "hold_out_relative_error": self.hold_out}


def fit_link(loss, score, runs, sizes, *, score_floor: float | None = None, asked: float = math.inf) -> Link:
    """The line through checkpoints, ``(n,)`` each; lower is better for both.

    Args:
        runs: the run of each; sizes: the size of its model.
        score_floor: pins S_inf.
        asked: the lowest loss at which the line will be evaluated: L_inf is below it and below all losses.

    Raises:
        UserError: values are not positive, there are fewer than 3 runs or checkpoints, the score does not fall with the loss, or a floor
            is not below every score.
    """
    inputs.require_one_table(loss=loss, score=score, runs=runs, sizes=sizes)
    loss, score, sizes = (np.atleast_1d(inputs.numbers(name, v)) for name, v in (("loss", loss), ("score", score), ("sizes", sizes)))
    runs = inputs.names("runs", runs, len(loss))
    if not loss.shape == score.shape == runs.shape == sizes.shape:
        raise UserError(f"loss, score, runs and sizes must be of equal length; got {loss.shape}, {score.shape}, {runs.shape}, {sizes.shape}")
    inputs.require_positive("loss", loss)
    inputs.require_positive("score", score)
    if score_floor is not None and not 0 <= score_floor < score.min():
        raise UserError(f"score floor {score_floor:g} must be at least 0 and below the lowest score, {score.min():g}")
    names, run = np.unique(runs, return_inverse=True)
    if len(names) < LEAST_RUNS or len(loss) < LEAST_RUNS + 1:
        raise UserError(f"{count(len(names), 'run')} with both loss and score, at {count(len(loss), 'checkpoint')}; a line needs {LEAST_RUNS} runs")
    search = _Search(loss, score, 1.0 / np.bincount(run)[run], score_floor, min(asked, float(loss.min())))
    theta = search.best()
    residuals = np.log(score / _line(theta, loss))
    if theta[2] <= 1e-6:
        raise UserError("the score does not fall with the loss: the loss cannot predict it")
    without = np.array([search.again(theta, run != number) for number in range(len(names))])
    free = 2 + bool(theta[0] > 0) + bool(theta[1] > 0 and score_floor is None)
    return Link(loss_floor=float(theta[0]), score_floor=float(theta[1]), exponent=float(theta[2]), coefficient=math.exp(theta[3]),
                one_line=_one_line(theta, loss, residuals, run, sizes), noise=_noise(residuals, run, free),
                freedom=max(len(names) - free, 1), runs=len(names), hold_out=_hold_out(search, theta, loss, score, run, sizes), without_one=without)


class _Search:
    """Weighted least squares of ln S; theta is (L_inf, S_inf, g, c)."""

    def __init__(self, loss: np.ndarray, score: np.ndarray, weights: np.ndarray, score_floor: float | None, lowest: float) -> None:
        self.loss, self.score, self.weights = loss, score, weights
        self.middle = float(np.log(loss).mean())
        low = 0.0 if score_floor is None else score_floor
        high = HIGHEST * score.min() if score_floor is None else score_floor + 1e-12 * score.min()
        self.lower = np.array([0.0, low, 0.0, -np.inf])
        self.upper = np.array([HIGHEST * lowest, high, STEEPEST, np.inf])

    def best(self) -> np.ndarray:
        starts = [self._start(a, b) for a in SHARES * self.upper[0] for b in (np.unique(np.clip(SHARES * self.upper[1], self.lower[1], None)))]
        misfits = [float(np.sum(self._residuals(start, slice(None)) ** 2)) for start in starts]
        found = [self._polish(starts[i], slice(None)) for i in np.argsort(misfits)[:3]]
        return min(found, key=lambda theta: float(np.sum(self._residuals(theta, slice(None)) ** 2)))

    def again(self, theta: np.ndarray, kept) -> np.ndarray:
        """The line through some of the points, started from the line through all."""
        return self._polish(theta, kept)

    def _start(self, loss_floor: float, score_floor: float) -> np.ndarray:
        """The straight line in logarithms for given floors."""
        x, y = np.log(self.loss - loss_floor), np.log(self.score - score_floor)
        weights = self.weights * (1 - score_floor / self.score) ** 2
        slope, height = np.polyfit(x, y, 1, w=np.sqrt(weights))
        return np.array([loss_floor, score_floor, np.clip(slope, 0.0, STEEPEST), height])

    def _residuals(self, theta: np.ndarray, kept) -> np.ndarray:
        return np.sqrt(self.weights[kept]) * np.log(self.score[kept] / _line(theta, self.loss[kept]))

    def _polish(self, theta: np.ndarray, kept) -> np.ndarray:
        """Internally, c is the line's height at the mean loss: at L = 1 it would be correlated with g."""
        def outside(inner):
            return np.array([*inner[:3], inner[3] - inner[2] * math.log(math.exp(self.middle) - inner[0])])

        start = np.clip(theta, self.lower, self.upper)
        start[3] = theta[3] + theta[2] * math.log(math.exp(self.middle) - theta[0])
        scale = np.array([max(self.upper[0], 1e-300), max(self.upper[1], 1e-300), 1.0, 1.0])
        found = least_squares(lambda inner: self._residuals(outside(inner), kept), start, bounds=(self.lower, self.upper), x_scale=scale,
                              xtol=1e-10, ftol=1e-12, gtol=1e-12, max_nfev=400)
        return outside(found.x)


def _line(theta: np.ndarray, loss: np.ndarray) -> np.ndarray:
    loss_floor, score_floor, exponent, height = theta
    return score_floor + np.exp(np.minimum(height + exponent * np.log(np.maximum(loss - loss_floor, 1e-12 * loss)), 700.0))


def _noise(residuals: np.ndarray, run: np.ndarray, free: int) -> float:
    """The deviation of one checkpoint from the line: that of the runs' means, and of checkpoints around these means."""
    counts = np.bincount(run)
    means = np.bincount(run, residuals) / counts
    within = np.sum((residuals - means[run]) ** 2) / max(len(run) - len(counts), 1)
    return math.sqrt(np.sum(means**2) / max(len(counts) - free, 1) + within)


def _hold_out(search: _Search, theta: np.ndarray, loss: np.ndarray, score: np.ndarray, run: np.ndarray, sizes: np.ndarray) -> float | None:
    largest = sizes == sizes.max()
    if len(np.unique(sizes)) < 3 or len(np.unique(run[~largest])) < 2:
        return None
    ends = [rows[np.argmin(loss[rows])] for rows in (np.flatnonzero(largest & (run == one)) for one in np.unique(run[largest]))]
    predicted = _line(search.again(theta, ~largest), loss[ends])
    return float(math.exp(np.mean(np.log(predicted / score[ends]))) - 1)


def _one_line(theta: np.ndarray, loss: np.ndarray, residuals: np.ndarray, run: np.ndarray, sizes: np.ndarray) -> OneLine:
    """The F test over checkpoints at losses that another size also has: elsewhere a wrong curve would look like a difference of sizes."""
    kinds, size = np.unique(sizes, return_inverse=True)
    spans = [(loss[size == k].min(), loss[size == k].max()) for k in range(len(kinds))]
    shared = np.array([any(low <= value <= high for k, (low, high) in enumerate(spans) if k != own) for value, own in zip(loss, size)])
    there = np.unique(size[shared])
    if len(there) < 2:
        return OneLine(reason="there is only one size" if len(kinds) < 2 else "no two sizes passed the same loss")
    residuals, run, size = residuals[shared], run[shared], np.unique(size[shared], return_inverse=True)[1]
    names, run = np.unique(run, return_inverse=True)
    means = np.bincount(run, residuals) / np.bincount(run)
    of_run = np.array([size[run == one][0] for one in range(len(names))])
    centers = np.bincount(of_run, means) / np.bincount(of_run)
    spread = float(np.std(centers, ddof=1))
    freedom = len(centers) - 1.0, float(len(names) - len(centers))
    if freedom[1] < 2:
        return OneLine(spread=spread, reason="too few sizes have a second run, so seed noise cannot be separated from size")
    f = _of_runs(means, of_run)
    return OneLine(p=float(special.fdtrc(*freedom, f)), f=f, freedom=freedom, spread=spread)


def _of_runs(means: np.ndarray, size: np.ndarray) -> float:
    """F of a one-way analysis of variance of the runs' mean residuals."""
    counts = np.bincount(size)
    centers = np.bincount(size, means) / counts
    between = np.sum(counts * (centers - means.mean()) ** 2) / (len(counts) - 1)
    within = np.sum((means - centers[size]) ** 2) / (len(means) - len(counts))
    return float(between / max(within, 1e-30))
