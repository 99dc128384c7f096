"""The law of the best score at each compute, from below: no run may beat it, and among these laws it has the least total slack.

For a given exponent, the floor E and the amplitude A of ``E + A C^-alpha`` come from a linear program: the largest sum over the points under
the constraint that the law is below each of them. The exponent is the one with the least total slack. Unlike a fit to the lowest points
it needs no choice of optimal points, and unlike isoFLOP slices no budgets; but it has no noise model, so one lucky run moves
it: use it in addition to the other estimators, not instead (as Abra does, arXiv 2608.17286).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog, minimize_scalar

from ditscale.errors import UserError, count
from ditscale.scaling import inputs
from ditscale.scaling.laws import PowerLawFloor

EXPONENTS = np.geomspace(0.01, 1.5, 60)
LEAST = 4                  # Pareto points: three coefficients always touch three of them


@dataclass(frozen=True, eq=False)
class Hyperplane:
    """``law`` of the best score in compute. ``slack`` is the mean of score - law over the Pareto points, ``touched`` the number of points on the law.

    ``pareto`` are the indices of these points in the input, by increasing compute.
    """

    law: PowerLawFloor
    slack: float
    touched: int
    pareto: np.ndarray


def supporting_hyperplane(compute, score, floor: float | None = None) -> Hyperplane:
    """The supporting law of points with any sizes and lengths, ``(n,)`` each; lower scores are better.

    Args:
        floor: pins E.

    Raises:
        UserError: values are not positive, fewer than 4 points are beaten by no cheaper one, or the floor is above the lowest score.
    """
    inputs.require_one_table(compute=compute, score=score)
    compute, score = np.atleast_1d(inputs.numbers("compute", compute)), np.atleast_1d(inputs.numbers("score", score))
    if compute.shape != score.shape:
        raise UserError(f"compute and score must be of equal length; got {compute.shape} and {score.shape}")
    for name, values in (("compute", compute), ("score", score)):
        inputs.require_positive(name, values)
    if floor is not None and not 0 < floor < score.min():
        raise UserError(f"floor {floor:g} must be above 0 and below the lowest score, {score.min():g}")
    at = pareto(compute, score)
    if len(at) < LEAST:
        raise UserError(f"{count(len(at), 'point is', 'points are')} beaten by no cheaper one; a law from below needs {LEAST}")
    middle = float(np.exp(np.log(compute[at]).mean()))
    scaled, best = compute[at] / middle, score[at]
    slacks = [_touching(scaled, best, exponent, floor)[2] for exponent in EXPONENTS]
    least = int(np.argmin(slacks))
    ends = EXPONENTS[max(least - 1, 0)], EXPONENTS[min(least + 1, len(EXPONENTS) - 1)]
    found = minimize_scalar(lambda exponent: _touching(scaled, best, exponent, floor)[2], bounds=ends, method="bounded",
                            options={"xatol": 1e-6})
    exponent = float(found.x) if found.fun <= slacks[least] else float(EXPONENTS[least])
    height, amplitude, slack = _touching(scaled, best, exponent, floor)
    law = PowerLawFloor(height, amplitude * middle**exponent, exponent)
    return Hyperplane(law, slack / len(at), int(np.sum(best - law.evaluate(compute[at]) < 1e-6 * best)), at)


def pareto(compute: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The indices of points with a lower score than all cheaper ones, by increasing compute; only the best at equal compute."""
    order = np.lexsort((score, compute))
    lowest = np.minimum.accumulate(np.concatenate([[np.inf], score[order][:-1]]))
    return order[score[order] < lowest]


def _touching(compute: np.ndarray, score: np.ndarray, exponent: float, floor: float | None) -> tuple[float, float, float]:
    """Floor, amplitude and total slack of the highest law with this exponent below all points; compute must be near 1."""
    powers = compute**-exponent
    bounds = [(0, None) if floor is None else (floor, floor), (0, None)]
    found = linprog([-len(score), -powers.sum()], A_ub=np.column_stack([np.ones_like(powers), powers]), b_ub=score, bounds=bounds)
    if not found.success:
        raise UserError(f"no law with exponent {exponent:g} is below all points: {found.message}")
    return float(found.x[0]), float(found.x[1]), float(score.sum() + found.fun)
