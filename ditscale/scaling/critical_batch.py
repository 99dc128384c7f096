"""The critical batch size from a sweep over batch sizes: how many more images a larger batch needs for the same loss.

    steps(B) = S (1 + B_crit / B),    images(B) = B steps(B) = S B_crit (1 + B / B_crit)

(McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11): S are the steps that a very large batch would need, S B_crit the images that a very small one
would, and at the critical batch size both are twice the least. The fit is least squares of ln steps; the interval of B_crit is where the sum of
squares exceeds its least by what Student's t allows (a profile), and is open to 0 or infinity where the batches do not bound it.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.optimize import brentq, minimize_scalar

from ditscale.errors import UserError
from ditscale.scaling import inputs
from ditscale.scaling.interval import LEVEL, Interval

LEAST_BATCHES = 3
FAR = 1e4                                                                      # beyond the batches by this factor the law is a straight line


@dataclass(frozen=True)
class WasteLaw:
    """``least_steps`` is S, ``critical`` B_crit with its interval (0 and infinity where it is open), ``sigma`` the residuals' deviation in ln steps.

    ``reason`` says why there is no usable law, or "".
    """

    least_steps: float = math.nan
    critical: float = math.nan
    interval: Interval = Interval(0.0, math.inf)
    sigma: float = math.nan
    batches: int = 0
    runs: int = 0
    reason: str = ""

    def images(self, batch) -> np.ndarray:
        """Images to the loss at a batch size."""
        return self.least_steps * (np.asarray(batch, float) + self.critical)

    def waste(self, batch) -> np.ndarray:
        """Images at a batch size relative to a very small one: 1 + B / B_crit."""
        return 1 + np.asarray(batch, float) / self.critical


def waste_law(batches, images) -> WasteLaw:
    """The law of one model's runs, at the best learning rate of each batch size.

    Args:
        batches, images: (n,), the batch size of each run and the images after which it reached the loss.

    Raises:
        UserError: lengths differ, or a value is not above 0.
    """
    batches, images = np.atleast_1d(inputs.numbers("batches", batches)), np.atleast_1d(inputs.numbers("images", images))
    if batches.shape != images.shape:
        raise UserError(f"batches and images must be of equal length; got {batches.shape} and {images.shape}")
    for name, values in (("batches", batches), ("images", images)):
        inputs.require_positive(name, values)
    count = len(np.unique(batches))
    if count < LEAST_BATCHES:
        return WasteLaw(batches=count, runs=len(batches), reason=f"{count} batch sizes; {LEAST_BATCHES} are needed")
    log_steps = np.log(images / batches)

    def squares(log_critical: float) -> float:
        return float(np.square(_residuals(batches, log_steps, log_critical)).sum())

    low, high = math.log(batches.min() / FAR), math.log(batches.max() * FAR)
    grid = np.linspace(low, high, 241)
    best = int(np.argmin([squares(at) for at in grid]))
    if best in (0, len(grid) - 1):
        return WasteLaw(batches=count, runs=len(batches), reason="steps do not fall with the batch size" if best == 0 else
                        "images do not rise with the batch size: every batch is far below the critical one")
    found = float(minimize_scalar(squares, bounds=(grid[best - 1], grid[best + 1]), method="bounded", options={"xatol": 1e-8}).x)
    freedom, least = len(batches) - 2, squares(found)
    limit = least * (1 + special.stdtrit(freedom, (1 + LEVEL) / 2) ** 2 / freedom)
    start = float(np.mean(log_steps - np.log1p(np.exp(found) / batches)))
    return WasteLaw(math.exp(start), math.exp(found), Interval(_end(squares, limit, found, low, 0.0), _end(squares, limit, found, high, math.inf)),
                    math.sqrt(least / freedom), count, len(batches))


def _residuals(batches: np.ndarray, log_steps: np.ndarray, log_critical: float) -> np.ndarray:
    """At the best S for this B_crit, which is a mean in logarithms."""
    left = log_steps - np.log1p(np.exp(log_critical) / batches)
    return left - left.mean()


def _end(squares, limit: float, inside: float, far: float, beyond: float) -> float:
    """Where the sum of squares reaches its limit between the optimum and ``far``; ``beyond`` if it does not."""
    if squares(far) <= limit:
        return beyond
    return math.exp(brentq(lambda at: squares(at) - limit, inside, far))
