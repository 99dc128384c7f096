"""The compute-optimal size and amount of data if the model will also make images: training and sampling out of one budget.

A model of F forward FLOPs per image that trains on D images and then runs S forward passes costs C = F (3 D + S): a training step is
three forwards. S = images to be made x model evaluations per image, twice with guidance. With the law L = E + A F^-alpha + B D^-beta the lowest L at C
obeys (Lagrange)

    alpha A F^-alpha / (beta B D^-beta) = 1 + S / (3 D),

which is Hoffmann et al.'s optimum (2203.15556 eq. 4) for S = 0, and for S > 0 a smaller model that trains longer (as Sardana et al. 2401.00448
find for language models). The condition gives F in closed form for each D, and C grows with D along it, so one bisection in ln D solves it.

With any cost rule ``k N D`` of training, where k counts three forwards, sampling costs ``k N S / 3``: N and D may be parameters and tokens (k = 6).
"""

import math
from dataclasses import dataclass

import numpy as np

from ditscale.errors import UserError
from ditscale.scaling.approaches import resampled_surfaces
from ditscale.scaling.interval import Interval, percentiles
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.result import Fit
from ditscale.scaling.status import MIN_RUNS

FORWARDS_PER_STEP = 3.0         # a training step in forward passes: one forward, and a backward of twice its cost
LOWEST_LOG_DATA, HIGHEST_LOG_DATA = -50.0, 300.0


def deployed_compute(size, data, sampling, k: float = FORWARDS_PER_STEP) -> np.ndarray:
    """Training and sampling together, ``k N (D + S / 3)``; arrays or numbers."""
    return k * np.asarray(size, np.float64) * (np.asarray(data, np.float64) + np.asarray(sampling, np.float64) / FORWARDS_PER_STEP)


def deployed_optimum(law: Chinchilla, compute, sampling, k: float = FORWARDS_PER_STEP) -> tuple[np.ndarray, np.ndarray]:
    """Size and data with the lowest score at ``compute = k N (D + S / 3)``.

    Args:
        law: with positive exponents; compute: FLOPs of training and sampling; sampling: S, forward passes after training, 0 or more. Arrays
            broadcast.
        k: of the cost of training, ``k N D``.

    Raises:
        UserError: an exponent or a compute that is not positive, or a negative S.
    """
    compute, sampling = np.broadcast_arrays(np.asarray(compute, np.float64), np.asarray(sampling, np.float64))
    for name, value in (("alpha", law.alpha), ("beta", law.beta), ("A", law.A), ("B", law.B)):
        if not value > 0:
            raise UserError(f"{name} of the law is {value:g}: there is an optimum only if more size and more data both help, so it must be above 0")
    if not (np.isfinite(compute) & (compute > 0)).all():
        raise UserError(f"compute is {compute.ravel()[~(compute.ravel() > 0)][:1]}: give FLOPs above 0")
    if not (np.isfinite(sampling) & (sampling >= 0)).all():
        raise UserError("sampling must be a number of forward passes, 0 or more")
    with np.errstate(divide="ignore"):
        log_extra, log_c = np.log(sampling / FORWARDS_PER_STEP), np.log(compute / k)
    low, high = np.full(compute.shape, LOWEST_LOG_DATA), np.full(compute.shape, HIGHEST_LOG_DATA)
    for _ in range(90):                                                        # 350 / 2^90: to the last bit of a float
        middle = 0.5 * (low + high)
        too_much = _log_size(law, middle, log_extra) + np.logaddexp(middle, log_extra) > log_c
        low, high = np.where(too_much, low, middle), np.where(too_much, middle, high)
    return np.exp(_log_size(law, high, log_extra)), np.exp(high)


def _log_size(law: Chinchilla, log_data: np.ndarray, log_extra: np.ndarray) -> np.ndarray:
    """ln N by the optimum's condition, at ln D and ln (S / 3)."""
    more = np.logaddexp(0.0, log_extra - log_data)                             # ln (1 + S / (3 D))
    return (math.log(law.alpha * law.A / (law.beta * law.B)) + law.beta * log_data - more) / law.alpha


@dataclass(frozen=True)
class Deployed:
    """The optimum of one compute and one S; the intervals are percentiles over resampled runs, None with fewer than three runs.

    ``share`` is sampling's share of the compute. ``score`` is the law's there.
    """

    compute: float
    sampling: float
    size: float
    data: float
    score: float
    share: float
    size_interval: Interval | None = None
    data_interval: Interval | None = None


def deployed(surface: Fit, compute: float, sampling: float, k: float = FORWARDS_PER_STEP, resamples: int = 500, seed: int = 0) -> Deployed:
    """The optimum of a fitted surface with its intervals.

    Raises:
        UserError: the surface is not a law of the form ``chinchilla``, or as ``deployed_optimum``.
    """
    if not isinstance(surface.law, Chinchilla):
        raise UserError(f"an optimum needs a law of the form chinchilla; {surface.form}: {surface.words}")
    size, data = (float(value) for value in deployed_optimum(surface.law, compute, sampling, k))
    score = float(surface.law.evaluate({"N": np.array([size]), "D": np.array([data])})[0])
    share = sampling / (FORWARDS_PER_STEP * data + sampling)
    if surface.n_runs < MIN_RUNS or not resamples:
        return Deployed(compute, sampling, size, data, score, share)
    optima = np.array([deployed_optimum(law, compute, sampling, k) for law in resampled_surfaces(surface, resamples, seed)])
    if not len(optima):
        return Deployed(compute, sampling, size, data, score, share)
    return Deployed(compute, sampling, size, data, score, share, percentiles(optima[:, 0]), percentiles(optima[:, 1]))
