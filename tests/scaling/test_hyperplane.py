"""The supporting law of dense runs is the envelope of the surface to 0.1 %, never above a point, whatever the exponents."""

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.hyperplane import pareto, supporting_hyperplane
from ditscale.scaling.laws import Chinchilla


@pytest.mark.parametrize("alpha, beta", [(0.3, 0.3), (0.34, 0.28), (0.45, 0.2)])
def test_it_is_the_envelope_of_dense_runs(alpha, beta):
    law = Chinchilla(E=1.2, A=200.0, B=300.0, alpha=alpha, beta=beta)
    size = np.geomspace(law.optimal_size(1e17, 6.0) / 3, law.optimal_size(1e21, 6.0) * 3, 30)
    data = np.geomspace(law.optimal_data(1e17, 6.0) / 3, law.optimal_data(1e21, 6.0) * 3, 60)
    n, d = (part.ravel() for part in np.meshgrid(size, data))
    compute = 6 * n * d
    inside = (compute > 1e17) & (compute < 1e21)                               # where the best size is one of the grid's
    found = supporting_hyperplane(compute[inside], law.evaluate({"N": n, "D": d})[inside])
    at = np.geomspace(2e17, 5e20, 9)
    assert found.law.evaluate(at) == pytest.approx(law.optimal_score(at, 6.0), rel=1e-3)
    assert found.law.alpha == pytest.approx(alpha * beta / (alpha + beta), rel=0.05)
    assert (found.law.evaluate(compute[inside]) <= law.evaluate({"N": n, "D": d})[inside] * (1 + 1e-6)).all()
    assert found.touched >= 3 and 0 < found.slack < 0.01


def test_a_pinned_floor_holds_and_a_lucky_run_moves_it():
    compute = np.geomspace(1e17, 1e20, 12)
    score = 1.5 + 100 * compute**-0.1
    free, pinned = supporting_hyperplane(compute, score), supporting_hyperplane(compute, score, floor=1.5)
    assert abs(free.law.E / 1.5 - 1) < 5e-3 and pinned.law.E == 1.5
    assert pinned.law.alpha == pytest.approx(0.1, rel=1e-3) and abs(pinned.law.A - 100) < 1
    lucky = score.copy()
    lucky[6] *= 0.98
    assert supporting_hyperplane(compute, lucky).law.evaluate(compute[6]) <= lucky[6] * (1 + 1e-6) < free.law.evaluate(compute[6])


def test_pareto_points_are_those_that_no_cheaper_one_beats():
    assert pareto(np.array([4.0, 1, 2, 3, 2]), np.array([1.0, 5, 4, 4, 3])).tolist() == [1, 4, 0]


def test_few_points_and_floors_above_are_refused():
    with pytest.raises(UserError, match="3 points are beaten by no cheaper one; a law from below needs 4"):
        supporting_hyperplane([1, 2, 3], [3, 2, 1])
    with pytest.raises(UserError, match="floor 2 must be above 0 and below the lowest score, 1"):
        supporting_hyperplane([1, 2, 3, 4], [4, 3, 2, 1], floor=2)
