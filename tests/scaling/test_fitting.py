"""A known law comes back, and hopeless data is told so."""

import json

import numpy as np
import pytest

from ditscale.scaling.bootstrap import bootstrap_runs
from ditscale.scaling.fitting import fit_power_law
from ditscale.scaling.laws import PowerLaw
from ditscale.scaling.status import Status

LAW = PowerLaw(A=5e4, alpha=0.31)
FLOPS = np.geomspace(1e11, 1e14, 12)


def test_law_is_recovered_exactly():
    fit = fit_power_law(FLOPS, LAW.evaluate(FLOPS))
    assert fit.status is Status.CONVERGED
    assert pytest.approx(LAW.A, rel=1e-9) == fit.law.A
    assert fit.law.alpha == pytest.approx(LAW.alpha, rel=1e-10)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.residual_spread < 1e-10
    assert fit.hold_out.error == pytest.approx(0.0, abs=1e-9)


def test_law_is_recovered_under_noise():
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(200))
    flops = np.geomspace(1e11, 1e14, 200)
    fit = fit_power_law(flops, LAW.evaluate(flops) * noise)
    assert fit.law.alpha == pytest.approx(LAW.alpha, abs=0.006)           # 3 standard errors: 0.05 / (14.2 * 2.0) * 3
    assert fit.residual_spread == pytest.approx(0.05, rel=0.15)


def test_integer_flops_beyond_int64_are_taken():
    flops = [10 ** 19, 10 ** 20, 10 ** 21]
    assert fit_power_law(flops, [4.0, 2.0, 1.0]).law.alpha == pytest.approx(np.log10(2.0))


def test_law_reads_as_text():
    assert LAW.formula("C", "fid") == "fid = 5e+04 * C^-0.31"
    assert PowerLaw(2.0, -0.5).formula() == "y = 2 * x^0.5"
    assert PowerLaw(1.0, 1.0).change_at_double() == -0.5


def test_hold_out_leaves_out_all_seeds_of_the_largest():
    x = np.array([1.0, 2.0, 4.0, 8.0, 8.0])
    fit = fit_power_law(x, np.array([8.0, 4.0, 2.0, 3.0, 3.0]), list("abcde"))
    assert fit.hold_out.predicted == pytest.approx(1.0)
    assert fit.hold_out.error == pytest.approx(1.0 / 3.0 - 1.0)
    two = fit_power_law(x, np.array([8.0, 4.0, 2.0, 0.8, 1.25]), list("abcde")).hold_out                  # errors that cancel in the mean
    assert two.error == pytest.approx(0.0) and two.rms == pytest.approx(np.sqrt((0.25**2 + 0.2**2) / 2))
    assert fit_power_law([1, 2, 4], [4, 2, 1]).hold_out is None


@pytest.mark.parametrize(
    "x, y, runs, status, named",
    [
        ([1, 2, 3], [1.0, np.nan, 2.0], list("abc"), Status.BAD_DATA, "y = nan of run 'b'"),
        ([1, 2, 3], [1.0, 0.0, -2.0], list("abc"), Status.BAD_DATA, "y = 0 of run 'b' and 1 more"),
        ([0, 2, 3], [1.0, 1.0, 2.0], list("abc"), Status.BAD_DATA, "x = 0 of run 'a'"),
        ([1, 2, 2, 1], [4.0, 3.0, 2.0, 1.0], list("abcd"), Status.TOO_FEW_POINTS, "2 distinct x"),
        ([1, 2, 3], [3.0, 2.0, 1.0], list("aaa"), Status.ONE_RUN, "run 'a'"),
        ([], [], [], Status.TOO_FEW_POINTS, "0 distinct x"),
    ],
)
def test_hopeless_data_is_told_so(x, y, runs, status, named):
    fit = fit_power_law(x, y, runs)
    assert fit.law is None and fit.status is status
    assert named in fit.sentence and status.sentence in fit.sentence
    assert not bootstrap_runs(x, y, runs).status.ok
    json.dumps(fit.card(bootstrap_runs(x, y, runs)), allow_nan=False)


def test_card_is_whole_and_independent_of_row_order():
    y = LAW.evaluate(FLOPS) * np.exp(0.1 * np.sin(FLOPS))
    runs = np.array([f"run-{i}" for i in range(12)])
    card = fit_power_law(FLOPS, y, runs, x_unit="training FLOPs", y_unit="fid").card(
        bootstrap_runs(FLOPS, y, runs, seed=7), context={"kept": "final evaluations"})
    json.dumps(card, allow_nan=False)
    assert card["form"] == "y = A * x^-alpha" and card["units"] == {"x": "training FLOPs", "y": "fid"}
    assert card["coefficients"]["alpha"]["low"] < card["coefficients"]["alpha"]["value"]
    assert card["interval"]["resampled"] == "runs" and card["interval"]["seed"] == 7
    assert card["n_points"] == card["n_runs"] == 12 and set(card["versions"]) == {"numpy", "scipy"}
    assert card["kept"] == "final evaluations"
    turned = fit_power_law(FLOPS[::-1], y[::-1], runs[::-1])
    assert turned.data_sha256 == card["data_sha256"]
