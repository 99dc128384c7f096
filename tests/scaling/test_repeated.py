"""The law with repeated data: its arithmetic, its derivatives, R* found with an interval or pinned, and what it needs of the points."""

import math

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.fitting import fit, gather
from ditscale.scaling.laws import Chinchilla, RepeatedData
from ditscale.scaling.pinned import pin
from ditscale.scaling.repeated import compare, worth_of_data
from ditscale.scaling.status import Status

TRUE = RepeatedData(E=1.7, A=400.0, B=900.0, alpha=0.34, beta=0.37, R_star=8.0)


def grid(noise: float = 0.0, unique=(1e5, 1e6), epochs=(0.5, 1, 3, 10, 40), seeds: int = 1):
    """Four sizes by unique images by epochs."""
    n, u, e, _ = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e8, 4), unique, epochs, np.arange(seeds)))
    score = TRUE.evaluate({"N": n, "D": u * e, "U": u})
    return {"N": n, "D": u * e, "U": u}, score * np.exp(noise * np.random.default_rng(0).standard_normal(len(n)))


def in_plain_words(n: float, d: float, u: float) -> float:
    """The law by the formula as printed, in Python floats."""
    repeats = max(d / u - 1, 0)
    worth = min(d, u) + u * TRUE.R_star * (1 - math.exp(-repeats / TRUE.R_star))
    return TRUE.E + TRUE.A / n**TRUE.alpha + TRUE.B / worth**TRUE.beta


def test_the_law_is_the_printed_formula():
    columns, score = grid()
    assert score == pytest.approx([in_plain_words(*point) for point in zip(*columns.values())], rel=1e-12)
    assert worth_of_data(3e5, 1e6, 8.0) == 3e5 and worth_of_data(1e6, 1e6, 8.0) == 1e6           # seen once: itself
    assert float(worth_of_data(1e12, 1e6, 8.0)) == pytest.approx(9e6)                              # in the limit U (1 + R*)
    assert float(worth_of_data(5e6, 1e6, 1e12)) == pytest.approx(5e6, rel=1e-9)                    # R* without end: Chinchilla's D
    assert float(worth_of_data(5e6, 1e6, 1e-30)) == 1e6 and "1 - D/U" in TRUE.formula()


def test_the_model_and_its_derivatives():
    columns, score = grid()
    model = gather("repeated", columns, score).model
    theta = model.to_centered(TRUE.theta()[None])
    log_y, shares = model.evaluate(theta)
    assert np.exp(log_y[0]) == pytest.approx(score, rel=1e-12)
    assert model.from_centered(theta)[0] == pytest.approx(TRUE.theta())
    for i, step in enumerate(1e-6 * np.eye(6)):
        numeric = (model.evaluate(theta + step)[0] - model.evaluate(theta - step)[0])[0] / 2e-6
        assert model.jacobian(theta, shares)[0, i] == pytest.approx(numeric, abs=1e-8), RepeatedData.names()[i]


def test_r_star_is_found_and_its_interval_holds_it():
    found = fit("repeated", *grid())
    assert found.law.coefficients() == pytest.approx(TRUE.coefficients(), rel=1e-4) and found.status.ok
    noisy = fit("repeated", *grid(noise=0.005, seeds=2))
    bounds = noisy.intervals().coefficients["R_star"]
    assert bounds.low < 8.0 < bounds.high and bounds.high / bounds.low < 2 and noisy.status is Status.CONVERGED
    assert noisy.card()["coefficients"]["R_star"]["value"] == pytest.approx(8.0, rel=0.2)


def test_r_star_can_be_pinned():
    columns, score = grid(noise=0.005, seeds=2)
    found = fit(pin("repeated", R_star=8.0), columns, score)
    assert found.law.R_star == 8.0 and "R_star" not in found.intervals().coefficients and "R_star = 8 pinned" in found.form
    free = fit("repeated", columns, score).intervals().coefficients["beta"]
    fixed = found.intervals().coefficients["beta"]
    assert fixed.high - fixed.low < free.high - free.low
    with pytest.raises(UserError, match="'B' of the form repeated cannot be pinned.*Pin any of E, alpha, beta, R_star"):
        pin("repeated", B=1.0)


def test_points_that_need_it_are_told_from_those_that_do_not():
    columns, score = grid(noise=0.01, seeds=2)
    with_it, without = fit("repeated", columns, score), fit("chinchilla", {name: columns[name] for name in "ND"}, score)
    found = compare(with_it, without)
    assert found.p < 1e-6 and found.freedom == 80 - 6 and "the points need it" in found.sentence
    assert found.f == pytest.approx((without.search.objective / with_it.search.objective - 1) * 74)
    assert without.lack_of_fit.significant and not with_it.lack_of_fit.significant and found.card()["p"] == found.p
    plain = Chinchilla(1.7, 400.0, 900.0, 0.34, 0.37).evaluate({name: columns[name] for name in "ND"})
    plain = plain * np.exp(0.01 * np.random.default_rng(1).standard_normal(len(plain)))
    none = compare(fit("repeated", columns, plain), fit("chinchilla", {name: columns[name] for name in "ND"}, plain))
    assert none.p > 0.05 and "do not need it" in none.sentence
    along = compare(fit("repeated", columns, score, np.repeat(np.arange(20), 4)), without)
    assert along.p is None and "correlated errors" in along.sentence


def test_what_the_points_must_have():
    columns, score = grid(epochs=(0.25, 0.5, 0.75, 1))
    found = fit("repeated", columns, score)
    assert found.status is Status.TOO_FEW_POINTS and "0 distinct numbers of epochs above 1; R_star needs 3" in found.detail
    proportional, score = grid(unique=(1e5, 3e5, 1e6), epochs=(4,))
    assert fit(pin("repeated", R_star=8.0), proportional, score).status is Status.ONE_LINE       # D and U change together
    one, score = grid(unique=(1e5,), epochs=(0.2, 0.5, 1, 2, 6, 20, 60))                           # one data set is enough
    assert fit("repeated", one, score).law.R_star == pytest.approx(8.0, rel=1e-3)
    with pytest.raises(UserError, match="takes N and D and U"):
        fit("repeated", {"N": [1.0], "D": [1.0]}, [1.0])


def test_an_r_star_beyond_the_epochs_is_at_its_limit():
    columns, score = grid(noise=0.0)
    plain = Chinchilla(1.7, 400.0, 900.0, 0.34, 0.37).evaluate({name: columns[name] for name in "ND"})
    found = fit("repeated", columns, plain)
    assert found.status is Status.BOUND_HIT and "bound from points of at most 40 epochs" in found.detail
    with pytest.raises(UserError, match="use solver='lm'"):
        fit("repeated", columns, score, residuals="y", solver="varpro")
