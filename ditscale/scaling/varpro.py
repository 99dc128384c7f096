"""Variable projection: a grid over the exponents; the amplitudes are then linear and come from NNLS.

Only for the square loss of y (in ln y the amplitudes are not linear). It shares nothing with the Levenberg-Marquardt
solver until that refines the best grid point, so the two check each other. After Open-Athena's VPNLS (2603.22339).
"""

import itertools

import numpy as np
from scipy.optimize import nnls

from ditscale.errors import UserError
from ditscale.scaling.laws import Law

GRID = {1: 512, 2: 48, 3: 16}        # points per exponent, by the number of exponents
RANGE = (0.02, 2.5)


def best_on_grid(form: type[Law], columns: dict[str, np.ndarray], center: dict[str, float], y: np.ndarray,
                 weights: np.ndarray) -> np.ndarray:
    """The best centered theta ``(p,)`` on the grid.

    Raises:
        UserError: the form has no linear amplitudes to project out.
    """
    if not form.TERMS or form.STARTS:
        raise UserError(f"variable projection needs a sum of powers, and {form.NAME} is none; use solver='lm'")
    free = [name for name in form.names() if name not in form.amplitudes()]
    log_x = {name: np.log(columns[name]) - center[name] for name in form.VARIABLES}
    root = np.sqrt(weights)
    best, best_theta = np.inf, None
    for values in itertools.product(np.geomspace(*RANGE, GRID[len(free)]), repeat=len(free)):
        exponent = dict(zip(free, values))
        basis = np.exp(np.column_stack([
            sum((sign * exponent[e] * log_x[v] for v, e, sign in term.powers), np.zeros(len(y))) for term in form.TERMS]))
        amplitudes, misfit = nnls(basis * root[:, None], y * root)
        if misfit < best:
            known = {**exponent, **{t.amplitude: np.log(max(a, 1e-12 * y.min())) for t, a in zip(form.TERMS, amplitudes)}}
            best, best_theta = misfit, np.array([known[name] for name in form.names()])
    return best_theta
