"""The interval of a parabola's vertex: Fieller's, for a ratio of two coefficients, which has no need of small errors.

With y = c0 + c1 u + c2 u^2 the vertex is at u = -c1 / (2 c2). A value u belongs to the interval while c1 + 2 c2 u, which is normal,
is not told from 0 by Student's t on n - 3 degrees of freedom.
"""

import math

import numpy as np
from scipy import stats

from ditscale.scaling.interval import LEVEL, Interval


def vertex_interval(sizes, scores) -> Interval | None:
    """The 95 % interval of the size at the vertex of a least-squares parabola of the scores in ln size, ``(n,)`` each.

    None where there are no more points than coefficients, or the curvature is not told from 0: the vertex is then anywhere.
    """
    log_n, scores = np.log(np.asarray(sizes, float)), np.asarray(scores, float)
    freedom = len(log_n) - 3
    if freedom < 1:
        return None
    middle = log_n.mean()
    design = np.vander(log_n - middle, 3)
    coefficients, *_ = np.linalg.lstsq(design, scores, rcond=None)
    residuals = scores - design @ coefficients
    covariance = np.linalg.pinv(design.T @ design) * (residuals @ residuals) / freedom
    t2 = stats.t.ppf(0.5 + LEVEL / 2, freedom) ** 2
    c2, c1, _ = coefficients
    # (c1 + 2 c2 u)^2 <= t^2 var(c1 + 2 c2 u), a quadratic in u
    square = 4.0 * (c2**2 - t2 * covariance[0, 0])
    linear = 4.0 * (c1 * c2 - t2 * covariance[0, 1])
    constant = c1**2 - t2 * covariance[1, 1]
    if c2 <= 0 or square <= 0:
        return None
    half = math.sqrt(max(linear**2 - 4.0 * square * constant, 0.0))
    return Interval(*(math.exp(middle + (-linear + sign * half) / (2.0 * square)) for sign in (-1, 1)))
