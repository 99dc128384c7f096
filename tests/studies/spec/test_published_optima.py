"""Both published laws are named, and that they disagree."""

import pytest

from ditscale.studies.spec.budget_grid import Center
from ditscale.studies.spec.published_optima import ABRA, LIANG, disagreement, published_optimum


def test_both_laws_by_their_papers_numbers():
    assert published_optimum(LIANG, 1.5e21) == pytest.approx(9.647e8, rel=0.01) and published_optimum(LIANG, 1e19) == Center().at(1e19)
    n, d = published_optimum(ABRA, 1e21), 3.776 * 1e21**0.5049                 # its law of the data: 199 tokens per parameter
    assert 8.8 * n * d == pytest.approx(1e21, rel=0.01) and d / n == pytest.approx(199, rel=0.05)


def test_the_plan_names_both_and_that_they_disagree():
    said = disagreement([1e18, 1e20])
    assert "disagree" in said and "Liang et al. (N ~ C^0.568)" in said and "Abra (N ~ C^0.495)" in said
    assert "at 1e+18 FLOPs 15.1 M and 24.6 M" in said and "at 1e+20 FLOPs" in said
