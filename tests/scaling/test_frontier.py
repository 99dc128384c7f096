"""Frontiers against brute force, and probabilities against their closed form and the truth."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from ditscale.scaling.frontier import frontier
from ditscale.scaling.noise import Noise
from ditscale.scaling.status import Status

NOISE = Noise(Status.CONVERGED, "", 0.02, 40, 20, luck_share=1.0)


def dominated(i, cost, score):
    """By the definition, point by point."""
    return any((cost[j] <= cost[i] and score[j] < score[i]) or (cost[j] < cost[i] and score[j] <= score[i]) for j in range(len(cost)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("higher", [False, True])
def test_is_what_nothing_dominates(seed, higher):
    """Few distinct values: ties in cost, in score and in both."""
    rng = np.random.default_rng(seed)
    cost, score = rng.integers(1, 9, 40).astype(float), rng.integers(1, 9, 40).astype(float)
    found = frontier(cost, score, [f"{i:02}" for i in range(40)], lower_is_better=not higher)
    on = {cell.name for cell in found.points}
    assert on == {f"{i:02}" for i in range(40) if not dominated(i, cost, -score if higher else score)}


def test_cells_are_geometric_means_and_ties_stay_ties():
    found = frontier([0.1] * 3 + [0.1] + [0.2, 0.4], [4.0, 4.0, 4.0, 4.0, 9.0, 1.0], ["a"] * 3 + ["b"] + ["c"] * 2)
    assert found.by_name["c"].score == pytest.approx(3.0) and found.by_name["c"].cost == pytest.approx(math.sqrt(0.08))
    assert {cell.name for cell in found.points} == {"a", "b", "c"}
    assert found.at(0.1).score == 4.0 and found.at(0.09) is None and found.at(5.0).name == "c"


def test_dominance_is_students_t_and_knows_shared_runs():
    """The second pair are checkpoints of the same three runs: their luck cancels, so that the difference is certain."""
    cost, score, cells = [1.0] * 3 + [2.0] * 3, [10.0, 10.1, 9.9, 10.2, 10.3, 10.1], ["a"] * 3 + ["b"] * 3
    apart = frontier(cost, score, cells, noise=NOISE)
    gain = math.log(apart.by_name["b"].score / apart.by_name["a"].score)
    assert apart.dominance("a", "b") == pytest.approx(stats.t.cdf(gain / (0.02 * math.sqrt(2 / 3)), 40))
    assert apart.dominance("b", "a") == 0.0                                    # it costs more
    assert frontier(cost, score, cells, list("xyzxyz"), noise=NOISE).dominance("a", "b") == 1.0


def test_the_drawn_probability_agrees_with_the_closed_form():
    """Of two cells the dearer is on the frontier where it is not dominated."""
    found = frontier([1.0, 2.0], [10.0, 10.1], ["a", "b"], noise=NOISE)
    assert found.by_name["b"].probability == pytest.approx(1.0 - found.dominance("a", "b"), abs=0.02)
    assert found.by_name["a"].probability == 1.0                               # nothing is cheaper
    assert found.by_name["b"].probability == frontier([1.0, 2.0], [10.0, 10.1], ["a", "b"], noise=NOISE).by_name["b"].probability


def test_one_seed_a_cell_gives_no_probability():
    found = frontier([1.0, 2.0, 3.0], [3.0, 2.0, 2.5])
    assert [cell.on_frontier for cell in found.cells] == [True, True, False] and math.isnan(found.dominance("0", "1"))
    assert all(math.isnan(cell.probability) and cell.interval is None for cell in found.cells)
    assert "INCONCLUSIVE" in found.sentence and "no cell has two seeds" in found.sentence
    assert json.loads(json.dumps(found.card(), allow_nan=False))["cells"][0]["probability"] is None


@pytest.mark.parametrize("cost, score, said", [([0.0, 1.0], [1.0, 1.0], "x = 0"), ([1.0, 1.0], [1.0, math.nan], "y = nan"),
                                               ([-3.0, math.inf], [1.0, 1.0], "x = -3 of run '0' and 1 more"), ([], [], "no point")])
def test_hopeless_data_is_told(cost, score, said):
    found = frontier(cost, score)
    assert found.status is Status.BAD_DATA and said in found.sentence and not found.cells and found.at(1.0) is None
    json.dumps(found.card(), allow_nan=False)


def test_plots():
    from matplotlib.figure import Figure

    rng = np.random.default_rng(0)
    good = frontier(np.repeat([1e17, 2e17, 4e17], 3), np.repeat([30.0, 20.0, 25.0], 3) * np.exp(0.02 * rng.standard_normal(9)),
                    np.repeat(list("abc"), 3), cost_unit="training FLOPs", score_unit="fid")
    axes = Figure().subplots(1, 2)
    good.plot(axes[0])
    frontier([0.0], [1.0]).plot(axes[1])
    assert len(axes[0].lines) == 3 * 2 + 1 and axes[0].get_ylabel() == "fid (lower is better)" and axes[1].texts
