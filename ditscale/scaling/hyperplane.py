"""The law of the best score at each compute, from below: no run may beat it, and among such laws it is the one that touches most.

For an exponent the floor E and the amplitude A of ``E + A C^-alpha`` come from a linear program: the largest sum over the points under
the constraint that the law lies below each of them. The exponent is that of the least total slack. Unlike a fit to the lowest points
it needs no choice of which points are optimal, and unlike isoFLOP slices no budget; but it has no noise model, so one lucky run moves
it: put it next to the other estimators, not in their place (Abra, arXiv 2608.17286, uses it so).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog, minimize_scalar

from ditscale.errors import UserError
from ditscale.scaling import inputs
from ditscale.scaling.laws import PowerLawFloor

EXPONENTS = np.geomspace(0.01, 1.5, 60)
LEAST = 4                  # Pareto points: three coefficients touch three of them whatever the truth


@dataclass(frozen=True, eq=False)
class Hyperplane:
    """``law`` of the best score in compute. ``slack`` is the mean of score - law over the Pareto points, ``touched`` how many it meets.

    ``pareto`` are the places of these points in what was given, by rising compute.
    """

    law: PowerLawFloor
    slack: float
    touched: int
    pareto: np.ndarray


def supporting_hyperplane(compute, score, floor: float | None = None) -> Hyperplane:
    """The supporting law of points of any sizes and lengths, ``(n,)`` each; lower scores are better.

    Args:
        floor: pins E.

    Raises:
        UserError: values that are not positive, fewer than 4 points that no cheaper one beats, or a floor above the lowest score.
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
        raise UserError(f"{len(at)} points are beaten by no cheaper one; {LEAST} are needed for a law from below")
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
    """The places of points with a lower score than all cheaper ones, by rising compute; of one compute the best alone."""
    order = np.lexsort((score, compute))
    lowest = np.minimum.accumulate(np.concatenate([[np.inf], score[order][:-1]]))
    return order[score[order] < lowest]


def _touching(compute: np.ndarray, score: np.ndarray, exponent: float, floor: float | None) -> tuple[float, float, float]:
    """Floor, amplitude and total slack of the highest law of this exponent below all points; compute near 1."""
    powers = compute**-exponent
    bounds = [(0, None) if floor is None else (floor, floor), (0, None)]
    found = linprog([-len(score), -powers.sum()], A_ub=np.column_stack([np.ones_like(powers), powers]), b_ub=score, bounds=bounds)
    if not found.success:
        raise UserError(f"no law of exponent {exponent:g} lies below the points: {found.message}")
    return float(found.x[0]), float(found.x[1]), float(score.sum() + found.fun)
