"""The strongest rival of each cell of a frontier, for thousands of cells: only the nearest rivals are compared exactly."""

import math

import numpy as np
from scipy import special

from ditscale.scaling.frontier import Frontier

CLOSE = 1e-9                  # of the best distance in standard deviations: rivals this close to it are compared exactly
MOST_COMPARED = 50            # of rivals that are all certain to be better, those with the last names


def strongest(found: Frontier) -> list[tuple[str, float]]:
    """For each cell, in order, the cell that most probably dominates it (``Frontier.dominance``) and that probability; "" and NaN if none
    could, or without noise."""
    if not found.noise or not found.noise.status.ok:
        return [("", math.nan)] * len(found.cells)
    cost, level = (np.array([getattr(cell, name) for cell in found.cells]) for name in ("cost", "score"))
    level = np.log(level) * (1.0 if found.lower_is_better else -1.0)
    counts, cells_of = np.array([len(cell.runs) for cell in found.cells]), dict[str, list[int]]()
    for i, cell in enumerate(found.cells):
        for run in cell.runs:
            cells_of.setdefault(run, []).append(i)
    luck = found.noise.luck_share if math.isfinite(found.noise.luck_share) else 1.0
    certain = found.noise.sigma * float(special.stdtrit(found.noise.freedom, 1 - 2.0**-53))
    rivals = []
    for i, cell in enumerate(found.cells):
        end = int(np.searchsorted(cost, cell.cost, side="right"))              # cells are sorted by cost
        shared = np.bincount(np.concatenate([cells_of[run] for run in cell.runs]), minlength=len(cost))[:end]
        variance = 1 / counts[:end] + 1 / counts[i] - 2 * luck * shared / (counts[:end] * counts[i])
        with np.errstate(divide="ignore", invalid="ignore"):
            away = (level[i] - level[:end]) / np.sqrt(np.maximum(variance, 0.0))
        away[i], away[np.isnan(away)] = -np.inf, -np.inf
        best = away.max()
        close = np.flatnonzero(away >= (min(best - CLOSE * abs(best), certain) if math.isfinite(best) else best))
        names = sorted((found.cells[k].name for k in close if k != i), reverse=True)[:MOST_COMPARED]
        chance, rival = max(((found.dominance(name, cell.name), name) for name in names), default=(math.nan, ""))
        rivals.append((rival, chance))
    return rivals
