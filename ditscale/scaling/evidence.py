"""Evidence against a fit: seeds that agree with each other but not with the law, and held-out points."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

SIGNIFICANT = 0.01       # a lack of fit with a smaller p is reported in the status
SAME = 0.05              # compute within 5 % of the largest counts as the largest: budgets are met to within a training step


@dataclass(frozen=True)
class HoldOut:
    """The law fitted without the largest x, evaluated there. ``error`` is predicted / observed - 1.

    ``by`` is "size" or "compute"; ``x`` the value left out; ``observed`` and ``predicted`` geometric means over ``points``.
    ``rms`` is the root mean square of the points' relative errors, which cannot cancel as in ``error``.
    """

    x: float
    observed: float
    predicted: float
    rms: float
    by: str = "size"
    points: int = 1

    @property
    def error(self) -> float:
        return self.predicted / self.observed - 1.0

    def card(self) -> dict:
        return {"by": self.by, "x": self.x, "observed": self.observed, "predicted": self.predicted,
                "relative_error": self.error, "rms_relative_error": self.rms, "points": self.points}


@dataclass(frozen=True)
class LackOfFit:
    """F test of the means at each x against the law, relative to the spread between seeds.

    ``p`` is None if the test is impossible; ``reason`` says why.
    """

    p: float | None = None
    f: float | None = None
    freedom: tuple[float, float] | None = None       # of the means around the law, and of the seeds around their means
    seed_spread: float | None = None             # standard deviation between seeds, in the residual's unit
    reason: str = ""

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANT

    def card(self) -> dict:
        return {"p": self.p, "F": self.f, "freedom": self.freedom and list(self.freedom), "seed_spread": self.seed_spread,
                "reason": self.reason or None, "told_below_p": SIGNIFICANT}


def distinct_points(columns: dict[str, np.ndarray]) -> np.ndarray:
    """The index of each point's x, equal if all variables agree to nine digits; ``(n,)`` from 0."""
    keys = np.column_stack([np.round(np.log(column), 9) for column in columns.values()])
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def lack_of_fit(columns: dict[str, np.ndarray], groups: np.ndarray, observed: np.ndarray, residuals: np.ndarray,
                coefficients: int) -> LackOfFit:
    """The test of a least-squares fit with ``residuals`` ``(n,)``; ``observed`` is ln y, or y if the residuals are of y."""
    where = distinct_points(columns)
    cells, runs, n = where.max() + 1, len(np.unique(groups)), len(where)
    if runs < n:
        return LackOfFit(reason="runs have several points with correlated errors: they are not repetitions")
    if cells == n:
        return LackOfFit(reason="no x has two seeds")
    if cells <= coefficients:
        return LackOfFit(reason="no more distinct x than coefficients")
    means = np.bincount(where, observed) / np.bincount(where)
    pure = float(np.sum((observed - means[where]) ** 2))
    if pure <= 1e-24 * float(np.sum(observed**2)):
        return LackOfFit(reason="all repeats are equal: are they one run counted twice?")
    freedom = int(cells - coefficients), int(n - cells)
    lack = max(float(np.sum(residuals**2)) - pure, 0.0)
    f = (lack / freedom[0]) / (pure / freedom[1])
    return LackOfFit(p=float(special.fdtrc(*freedom, f)), f=f, freedom=freedom, seed_spread=math.sqrt(pure / freedom[1]))


def left_out(columns: dict[str, np.ndarray], groups: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """What to leave out: ``{"size": (value, mask), "compute": ...}``, compute only if there are several variables.

    The size is the first variable. Compute is the product of size and data, or C if the form has it. Every run that
    reaches the largest is left out completely; ``mask`` marks the points at the largest.
    """
    names = list(columns)
    size = columns[names[0]]
    ways = {"size": (float(size.max()), size == size.max())}
    if names == ["C", "M"]:
        size = np.sqrt(columns["C"] / columns["M"])                       # N, up to the constant in C = k N D
        compute = columns["C"]
        ways["size"] = float(size.max()), size >= (1.0 - SAME) * size.max()
    elif len(names) > 1:
        compute = columns["N"] * columns["D"]
    else:
        return ways
    ways["compute"] = float(compute.max()), compute >= (1.0 - SAME) * compute.max()
    return ways
