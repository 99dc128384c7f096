"""The cost-score frontier: cells that no other beats in both cost and score, with probabilities under seed noise.

A cell is one model, variant and number of images; its points are its seeds. The frontier is that of the cells' geometric
means. Probabilities are for the true means given the data, with noise pooled over cells (Student's t) and a flat prior:
of the statements with probability 0.9, nine in ten are true if true differences are larger than the noise. Cells of
the same runs share these runs' errors. Costs are taken as measured, without noise.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from ditscale.errors import count
from ditscale.scaling.cards import frontier_card
from ditscale.scaling.drawing import draw_frontier
from ditscale.scaling.interval import LEVEL, Interval
from ditscale.scaling.noise import Noise, pooled_noise
from ditscale.scaling.status import Status, as_points, first_bad

DRAWS = 4000
MOST_AT_ONCE = 4_000_000      # draws of cells
SURE = 0.95
MOST_NAMED = 3                # cells in a sentence


@dataclass(frozen=True)
class Cell:
    """One cell. ``score`` and ``cost`` are geometric means over its points; ``probability`` that it truly is on the frontier.

    ``interval`` is the 95 % interval of its true score. Without repetitions, probability is NaN and interval None.
    """

    name: str
    cost: float
    score: float
    runs: tuple[str, ...]
    on_frontier: bool
    probability: float
    interval: Interval | None


@dataclass(frozen=True)
class Frontier:
    """``cells`` by cost. There are none if ``status`` is not CONVERGED; without noise there are no probabilities.

    ``without`` is the frontier without the runs in ``noise.outliers``, or None.
    """

    status: Status
    detail: str
    cost_unit: str
    score_unit: str
    lower_is_better: bool
    cells: tuple[Cell, ...] = ()
    noise: Noise | None = None
    seed: int = 0
    by_name: dict[str, Cell] = field(default_factory=dict, repr=False, compare=False)
    without: "Frontier | None" = None

    @property
    def points(self) -> tuple[Cell, ...]:
        """The cells on the frontier, cheapest first."""
        return tuple(cell for cell in self.cells if cell.on_frontier)

    @property
    def words(self) -> str:
        """The result of all runs."""
        if not self.status.ok:
            return self.status.because(self.detail)
        counted = f"{len(self.points)} of {len(self.cells)} cells are on the frontier of {self.score_unit} against {self.cost_unit}"
        if not self.noise.status.ok:
            return f"{counted}; INCONCLUSIVE: {self.noise.words}"
        return f"{counted}, {self.sure}"

    @property
    def sure(self) -> str:
        return f"{sum(cell.probability >= SURE for cell in self.points)} of them with a probability of {SURE:g} or more"

    @property
    def sentence(self) -> str:
        """``words``; if there are outliers, also their names and the frontier without them."""
        return self.noise.outliers.add_to(self.words, self.without, self.lost) if self.noise else self.words

    @property
    def lost(self) -> str:
        """After a space and in parentheses, which cells are not in ``without``, as all their runs are outliers; "" if none."""
        gone = [cell.name for cell in self.cells if self.without and cell.name not in self.without.by_name]
        if not gone:
            return ""
        named = f"{'; '.join(gone[:MOST_NAMED])}{f' and {len(gone) - MOST_NAMED} more' if len(gone) > MOST_NAMED else ''}"
        return f" (and so without {count(len(gone), 'cell')} with no other run: {named})"

    def at(self, cost: float) -> Cell | None:
        """The best cell at this cost: the frontier cell with the highest cost not above it; None if no cell is this cheap.

        Its interval is that of the frontier's score there, which is optimistic if many cells are almost equal.
        """
        affordable = [cell for cell in self.points if cell.cost <= cost]
        return affordable[-1] if affordable else None

    def dominance(self, a: str, b: str) -> float:
        """The probability that cell ``a`` truly dominates cell ``b`` (costs no more and scores better). NaN without noise.

        0 if ``a`` costs more, as costs are assumed to have no noise.
        """
        one, other = self.by_name[a], self.by_name[b]
        if not self.noise.status.ok:
            return math.nan
        if one.cost > other.cost:
            return 0.0
        gain = math.log(other.score / one.score) * (1.0 if self.lower_is_better else -1.0)
        variance = 1 / len(one.runs) + 1 / len(other.runs) - 2 * _covariance(one.runs, other.runs, self.noise)
        scale = self.noise.sigma * math.sqrt(max(variance, 0.0))
        return float(special.stdtr(self.noise.freedom, gain / scale)) if scale else float(gain > 0)

    def card(self) -> dict:
        """Ready for JSON: missing numbers are None."""
        return frontier_card(self)

    def plot(self, ax) -> None:
        """Draws all cells and the frontier's steps on matplotlib axes, with intervals if there are any."""
        draw_frontier(ax, self)


def frontier(cost, score, cells=None, runs=None, *, noise: Noise | None = None, lower_is_better: bool = True, cost_unit: str = "cost",
             score_unit: str = "score", seed: int = 0) -> Frontier:
    """The non-dominated cells.

    A cell is dominated by one that costs no more and scores better, or costs less and scores no worse; equal cells both stay.

    Args:
        cost, score: positive, in any unit and metric, ``(n,)``.
        cells: the cell of each point, ``(n,)``; points of one cell differ only in seed. By default each point is a cell.
        runs: the run of each point, ``(n,)``: two cells with checkpoints of one run share its error. By default none do.
        noise: of ln score, if it is known better than from these points; default pooled over the cells.
        seed: of the random draws for the probabilities.
    """
    cost, score, names = as_points(cost, score, cells)
    runs = np.arange(len(cost)).astype(str) if runs is None else np.asarray(runs).astype(str)
    facts: dict[str, Any] = {"cost_unit": cost_unit, "score_unit": score_unit, "lower_is_better": lower_is_better, "seed": seed}
    bad = first_bad(cost, score, runs)
    if bad or not len(cost):
        return Frontier(Status.BAD_DATA, bad or "no point", **facts)
    noise = pooled_noise(score, names, runs) if noise is None else noise
    distinct, where = np.unique(names, return_inverse=True)
    costs, scores = (_geometric_means(values, where) for values in (cost, score))
    level = np.log(scores) if lower_is_better else -np.log(scores)
    of_cell = [tuple(runs[where == i].tolist()) for i in range(len(distinct))]
    on = non_dominated(costs, level)
    share = _share_on_frontier(costs, level, of_cell, noise, seed) if noise.status.ok else np.full(len(on), math.nan)
    made = [Cell(str(distinct[i]), float(costs[i]), float(scores[i]), of_cell[i], bool(on[i]), float(share[i]),
                 _interval(scores[i], len(of_cell[i]), noise)) for i in np.lexsort((level, costs))]
    others = ~np.isin(runs, noise.outliers.runs)
    without = None if others.all() or not others.any() else frontier(cost[others], score[others], names[others], runs[others],
                                                                     noise=noise.without, **facts)
    return Frontier(Status.CONVERGED, "", cells=tuple(made), noise=noise, by_name={cell.name: cell for cell in made}, without=without,
                    **facts)


def non_dominated(cost: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Which points no other beats; lower ``level`` ``(..., n)`` is better; ``cost`` is ``(n,)``."""
    costs, group = np.unique(cost, return_inverse=True)
    best = np.full((*level.shape[:-1], len(costs)), np.inf)                    # the best level at each cost
    np.minimum.at(np.moveaxis(best, -1, 0), group, np.moveaxis(level, -1, 0))
    before = np.minimum.accumulate(best, axis=-1)                              # at that cost or less
    cheaper = np.concatenate([np.full((*before.shape[:-1], 1), np.inf), before[..., :-1]], axis=-1)
    return (level <= best[..., group]) & (level < cheaper[..., group])


def _share_on_frontier(cost, level, of_cell: list[tuple[str, ...]], noise: Noise, seed: int) -> np.ndarray:
    """The share of random draws of the true means in which each cell is on the frontier."""
    rng, later = np.random.default_rng(seed), np.random.default_rng(seed)
    luck_share = noise.luck_share if math.isfinite(noise.luck_share) else 1.0
    names = sorted({run for runs in of_cell for run in runs})
    luck, place = rng.standard_normal((DRAWS, len(names))), {run: i for i, run in enumerate(names)}
    sets = {runs: i for i, runs in enumerate(dict.fromkeys(of_cell))}          # checkpoints of the same runs share their luck
    of_set, roots = [sets[runs] for runs in of_cell], np.sqrt([len(runs) for runs in of_cell])
    for width in [len(names)] * DRAWS + [len(level)] * DRAWS:                  # one stream, in which the spreads come after all other draws
        later.standard_normal(width)
    sigma = noise.sigma * np.sqrt(noise.freedom / later.chisquare(noise.freedom, size=(DRAWS, 1)))
    on = np.zeros(len(level))
    for rows in np.array_split(np.arange(DRAWS), -(-DRAWS * len(level) // MOST_AT_ONCE)):      # thousands of cells need gigabytes at once
        part = luck[rows]
        shared = np.stack([part[:, [place[run] for run in runs]].mean(axis=1) for runs in sets], axis=1)[:, of_set]
        own = rng.standard_normal((len(rows), len(level))) / roots
        on += non_dominated(cost, level + sigma[rows] * (math.sqrt(luck_share) * shared + math.sqrt(1 - luck_share) * own)).sum(axis=0)
    return on / DRAWS


def _covariance(a: tuple[str, ...], b: tuple[str, ...], noise: Noise) -> float:
    """The covariance of two cells' mean levels, in units of the noise's variance, from the runs that they share."""
    shared = len(set(a) & set(b))
    return (noise.luck_share if math.isfinite(noise.luck_share) else 1.0) * shared / (len(a) * len(b))


def _interval(score: float, count: int, noise: Noise) -> Interval | None:
    if not noise.status.ok:
        return None
    factor = math.exp(special.stdtrit(noise.freedom, 0.5 + LEVEL / 2) * noise.sigma / math.sqrt(count))
    return Interval(float(score / factor), float(score * factor))


def _geometric_means(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The mean of each cell's values; if they are equal, exactly that value, so that ties stay ties."""
    own = [values[where == i] for i in range(where.max() + 1)]
    return np.array([part[0] if np.ptp(part) == 0 else np.exp(np.log(part).mean()) for part in own])
