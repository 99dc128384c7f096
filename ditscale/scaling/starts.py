"""Starting points of the solver: grids of theta, the published one for Chinchilla's form and a data-driven one for any form."""

import itertools

import numpy as np

from ditscale.scaling.laws import BrokenPowerLaw, Law

EXPONENTS = (0.05, 0.15, 0.3, 0.6, 1.2)
FLOOR_SHARES = (0.02, 0.3, 0.6, 0.9)          # of the lowest score


def from_data(form: type[Law], columns: dict[str, np.ndarray], y: np.ndarray) -> np.ndarray:
    """A start for every set of exponents and every floor, centered theta ``(s, p)``.

    The rest of the geometric mean of y is split evenly among the other terms; when centered, that is their ln amplitude.
    """
    names = form.names()
    free = [name for name in names if name not in form.amplitudes()]
    floors = FLOOR_SHARES if "E" in names else (0.0,)
    middle = float(np.exp(np.log(y).mean()))
    if form is BrokenPowerLaw:
        return _broken(columns["x"], y, middle)
    starts = []
    others = [dict(zip(form.STARTS, np.log(values))) for values in itertools.product(*form.STARTS.values())]
    for share, exponents, other in itertools.product(floors, itertools.product(EXPONENTS, repeat=len(free)), others):
        floor = share * float(y.min())
        rest = (middle - floor) / (len(form.TERMS) - ("E" in names))
        known = {"E": np.log(max(floor, 1e-300)), **dict(zip(free, exponents)), **other}
        starts.append([known.get(name, np.log(rest)) for name in names])
    return np.array(starts)


def _broken(x: np.ndarray, y: np.ndarray, middle: float) -> np.ndarray:
    """Breaks at five places inside the data, sharp and soft, from steep to flat and from flat to steep."""
    log_x = np.log(x)
    places = np.quantile(log_x - log_x.mean(), (0.15, 0.3, 0.5, 0.7, 0.85))
    grid = itertools.product((0.02, 0.5, 0.9), (0.05, 0.3, 0.8), (-0.2, 0.1, 0.5), places, (0.1, 0.5))
    return np.array([(np.log(share * y.min()), np.log(middle - share * y.min()), before, more, place, np.log(width))
                     for share, before, more, place, width in grid])


def hoffmann_grid() -> np.ndarray:
    """The 4,500 starts of 2203.15556 appendix D.3 for Chinchilla's form, theta uncentered ``(4500, 5)``.

    ln A and ln B in {0, 5, .. 25}, ln E in {-1, -0.5, .. 1}, alpha and beta in {0, 0.5, .. 2}.
    """
    fives, halves = range(0, 26, 5), np.arange(0, 2.1, 0.5)
    return np.array(list(itertools.product(np.arange(-1, 1.1, 0.5), fives, fives, halves, halves)), dtype=np.float64)
