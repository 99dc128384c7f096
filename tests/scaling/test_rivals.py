"""The strongest rivals against a search over all pairs of cells; and probabilities that do not depend on how many draws are made at once."""

import math

import numpy as np
import pytest

from ditscale.scaling import frontier as module
from ditscale.scaling.frontier import frontier
from ditscale.scaling.rivals import strongest


def points(seed, cells=40, seeds=3):
    """Cells of shared runs: each run has two checkpoints."""
    rng = np.random.default_rng(seed)
    cost = np.repeat(np.exp(rng.uniform(0, 2, cells)), seeds)
    score = 10 * cost**-0.3 * np.exp(0.05 * rng.standard_normal(len(cost)))
    names = np.repeat([f"{i:02}" for i in range(cells)], seeds)
    return cost, score, names, [f"r{i // 2 // seeds}-{i % seeds}" for i in range(len(cost))]


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_the_rival_is_the_one_of_a_full_search(lower_is_better):
    found = frontier(*points(1), lower_is_better=lower_is_better)
    for cell, rival in zip(found.cells, strongest(found)):
        able = [(found.dominance(other.name, cell.name), other.name) for other in found.cells if other is not cell and other.cost <= cell.cost]
        chance, name = max(able, default=(math.nan, ""))
        assert rival == (name, pytest.approx(chance, abs=0, nan_ok=True))


def test_without_noise_there_is_no_rival():
    found = frontier([1.0, 2.0, 3.0], [3.0, 2.0, 2.5])
    assert [name for name, _ in strongest(found)] == ["", "", ""]


def test_probabilities_do_not_depend_on_how_many_draws_are_made_at_once(monkeypatch):
    whole = frontier(*points(2))
    monkeypatch.setattr(module, "MOST_AT_ONCE", 1000)
    assert [cell.probability for cell in frontier(*points(2)).cells] == [cell.probability for cell in whole.cells]
