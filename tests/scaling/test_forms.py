"""Every form: derivatives against differences, its own points recovered, and its refusals."""

import json
import math

import matplotlib
import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.bootstrap import bootstrap_runs
from ditscale.scaling.fitting import fit, gather, refit, search
from ditscale.scaling.laws import FORMS, BrokenPowerLaw, Chinchilla, ChinchillaInteraction, Overtraining, PowerLaw, PowerLawFloor, RepeatedData
from ditscale.scaling.solver import Loss, minimize_from_grid
from ditscale.scaling.starts import hoffmann_grid
from ditscale.scaling.status import Status

LAWS = [PowerLaw(5e4, 0.31), PowerLawFloor(8.0, 900.0, 0.25), Chinchilla(1.8, 480.0, 2100.0, 0.35, 0.37),
        ChinchillaInteraction(2.0, 300.0, 5000.0, 0.3, 0.05, 0.4), Overtraining(1.8, 212.0, 367.0, 0.136),
        BrokenPowerLaw(1.0, 40.0, 0.1, 0.5, 3e5, 0.4), RepeatedData(1.8, 480.0, 2100.0, 0.35, 0.37, 12.0)]


def grid_of(law) -> dict[str, np.ndarray]:
    """Points that spread over the law's variables."""
    if law.VARIABLES == ("x",):
        return {"x": np.geomspace(1e3, 1e8, 30)}
    first, second = {"N": ((1e7, 1e10), (1e9, 1e12)), "C": ((1e18, 1e22), (5.0, 600.0))}[law.VARIABLES[0]]
    a, b = np.meshgrid(np.geomspace(*first, 8), np.geomspace(*second, 8))
    if law.VARIABLES[2:] == ("U",):                                            # up to 100 epochs
        return {"N": a.ravel(), "D": b.ravel(), "U": np.resize([1e10, 4e10], a.size)}
    return dict(zip(law.VARIABLES, (a.ravel(), b.ravel())))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.NAME)
def test_law_is_recovered_from_its_own_points(law):
    x = grid_of(law)
    found = fit(law.NAME, x, law.evaluate(x))
    assert found.status is Status.CONVERGED, found.sentence
    assert list(found.law.coefficients().values()) == pytest.approx(list(law.coefficients().values()), rel=1e-5)
    assert found.hold_out.error == pytest.approx(0.0, abs=1e-6)
    json.dumps(found.card(), allow_nan=False)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.NAME)
def test_derivatives_against_central_differences(law):
    """The step 1e-5 leaves an error of about 1e-10 in values near 1, well under the tolerance."""
    points = gather(law.NAME, grid_of(law), np.ones(len(next(iter(grid_of(law).values())))))
    theta = points.model.to_centered(law.theta()[None])
    log_y, shares = points.model.evaluate(theta)
    assert log_y[0] == pytest.approx(np.log(law.evaluate(points.columns)), abs=1e-9)
    assert points.model.from_centered(theta)[0] == pytest.approx(law.theta(), abs=1e-9)
    jacobian = points.model.jacobian(theta, shares)[0]
    for i, step in enumerate(1e-5 * np.eye(theta.shape[1])):
        difference = (points.model.evaluate(theta + step)[0] - points.model.evaluate(theta - step)[0])[0] / 2e-5
        assert jacobian[i] == pytest.approx(difference, abs=1e-7)


def test_huber_shrugs_off_what_least_squares_chases():
    law = LAWS[2]
    x = grid_of(law)
    y = law.evaluate(x) * np.exp(0.002 * np.random.default_rng(0).standard_normal(64))
    y[[3, 40]] *= 1.4
    errors = [abs(fit("chinchilla", x, y, **options).law.alpha - law.alpha) for options in ({}, {"loss": "huber", "delta": 1e-3})]
    assert errors[1] < 0.01 < errors[0]


def test_optimum_of_chinchilla_is_the_lowest_score_of_its_compute():
    law, compute = LAWS[2], 1e21
    size = law.optimal_size(compute, 6.0) * np.array([0.99, 1.0, 1.01])
    scores = law.evaluate({"N": size, "D": compute / (6.0 * size)})
    assert scores[1] < scores[0] and scores[1] < scores[2]
    assert 6.0 * law.optimal_size(compute, 6.0) * law.optimal_data(compute, 6.0) == pytest.approx(compute)
    assert law.a + law.b == 1.0


def test_variable_projection_and_the_solver_agree():
    law = LAWS[1]
    x = grid_of(law)["x"]
    y = law.evaluate(x) * np.exp(0.02 * np.random.default_rng(1).standard_normal(30))
    a, b = (fit("power_law_floor", x, y, residuals="y", solver=solver) for solver in ("lm", "varpro"))
    assert a.objective == pytest.approx(b.objective, rel=1e-9)


def test_starts_far_away_reach_the_optimum():
    """Hoffmann's grid, thinned, on made points: terms that die on the way come back."""
    law = LAWS[2]
    x = grid_of(law)
    y = law.evaluate(x) * np.exp(0.005 * np.random.default_rng(2).standard_normal(64))
    points = gather("chinchilla", x, y)
    done = minimize_from_grid(points.model, points.y, points.model.to_centered(hoffmann_grid()[::15]), Loss(1e-3))
    assert np.mean(done.objective < 1.001 * done.objective.min()) >= 0.9


def test_weights_are_repeated_points():
    law = LAWS[1]
    x = grid_of(law)["x"]
    y = law.evaluate(x) * np.exp(0.02 * np.random.default_rng(1).standard_normal(30))
    times = np.random.default_rng(0).integers(0, 3, 30)
    points = gather("power_law_floor", x, y)
    by_weight = refit(points, search(points, Loss()).theta, Loss(), times[None].astype(float), tolerance=1e-12).theta[0]
    by_rows = fit("power_law_floor", np.repeat(x, times), np.repeat(y, times)).search.theta
    assert by_weight == pytest.approx(by_rows, abs=1e-5)


def test_bootstrap_of_any_form():
    law = LAWS[1]
    x = np.repeat(np.geomspace(1e3, 1e8, 8), 3)
    y = law.evaluate(x) * np.exp(0.02 * np.random.default_rng(1).standard_normal(24))
    found = bootstrap_runs(x, y, form="power_law_floor", grid=[1e4, 1e6], resamples=200)
    assert found.coefficients["alpha"].low < fit("power_law_floor", x, y).law.alpha < found.coefficients["alpha"].high
    assert found.usable > 150 and found.band.low.shape == (2,)


HOPELESS = {
    "two sizes": ("chinchilla", {"N": [1e8, 1e8, 1e9, 1e9] * 3, "D": np.geomspace(1e9, 1e11, 12)}, Status.TOO_FEW_POINTS, "2 distinct N"),
    "one line": ("chinchilla", {"N": np.geomspace(1e8, 1e9, 12), "D": 20 * np.geomspace(1e8, 1e9, 12)}, Status.ONE_LINE, "N and D"),
    "few points": ("power_law_floor", [1.0, 2.0, 4.0] * 4, Status.TOO_FEW_SIZES, "3 distinct points for 3"),
}


@pytest.mark.parametrize("form, x, status, named", HOPELESS.values(), ids=HOPELESS)
def test_hopeless_designs_are_told_so(form, x, status, named):
    found = fit(form, x, np.linspace(9.0, 5.0, 12))
    assert found.law is None and found.status is status and named in found.sentence and not found.drawable
    assert not found.intervals().status.ok
    json.dumps(found.card(found.intervals()), allow_nan=False)


def test_nan_scores_and_one_run_are_told_so():
    x, y = np.geomspace(1, 100, 12), np.linspace(9.0, 5.0, 12)
    assert fit("power_law_floor", x, np.where(x > 50, np.nan, y)).status is Status.BAD_DATA
    assert fit("power_law_floor", x, y, ["a"] * 12).status is Status.ONE_RUN
    assert fit("chinchilla", {"N": x, "D": -x}, y).detail.startswith("D = -1")


def test_a_floor_the_data_do_not_need_is_told():
    x = np.geomspace(1.0, 1e4, 12)
    found = fit("power_law_floor", x, 50.0 * x**-0.3 * np.exp(0.01 * np.sin(7 * x)) - 0.3)
    assert found.status is Status.BOUND_HIT and "E is at zero" in found.detail and found.drawable


def bent(seed: int = 0):
    x = np.repeat(np.geomspace(1.0, 1e4, 6), 3)
    return x, (5.0 + 100.0 * x**-0.5) * np.exp(0.01 * np.random.default_rng(seed).standard_normal(18))


def test_a_law_that_does_not_fit_is_told_by_the_seeds():
    wrong, right = fit("power_law", *bent()), fit("power_law_floor", *bent())
    assert wrong.status is Status.LACK_OF_FIT and wrong.lack_of_fit.p < 1e-6 and not wrong.drawable
    assert right.status is Status.CONVERGED and right.lack_of_fit.p > 0.01
    assert right.lack_of_fit.seed_spread == pytest.approx(0.01, rel=0.5)
    assert right.lack_of_fit.freedom == (3, 12)


def test_lack_of_fit_is_rarely_told_of_the_true_law():
    assert sum(fit("power_law_floor", *bent(seed)).lack_of_fit.p < 0.05 for seed in range(20)) <= 4      # 1 expected


def test_checkpoints_are_no_repeats():
    x, y = bent()
    assert fit("power_law", x, y, np.repeat(np.arange(9), 2)).lack_of_fit.p is None


def test_plot_draws_what_it_may_and_no_more():
    matplotlib.use("Agg")
    from matplotlib import pyplot
    x, y = bent()
    figure, axes = pyplot.subplots(1, 3)
    right = fit("power_law_floor", x, y)
    right.plot(axes[0], to=3e4, intervals=right.intervals(at=np.geomspace(1, 1e4, 5)))
    assert [line.get_linestyle() for line in axes[0].lines] == ["-", "--"] and len(axes[0].collections) == 2
    assert axes[0].lines[0].get_xdata().max() == pytest.approx(1e4)
    fit("power_law", x, y).plot(axes[1])
    assert not axes[1].lines and "no curve" in axes[1].get_title(loc="left")
    law = LAWS[2]
    fit("chinchilla", grid_of(law), law.evaluate(grid_of(law))).plot(axes[2])
    with pytest.raises(UserError, match="4 times"):
        right.plot(axes[0], to=1e5)
    with pytest.raises(UserError, match="4 times"):
        right.predict(1e5)
    assert right.predict(1e5, extrapolate=True) > 5.0 - 0.5
    pyplot.close(figure)


@pytest.mark.parametrize("arguments, options, named", [
    (("powr_law", [1], [1]), {}, "power_law"), (("chinchilla", [1, 2], [1, 2]), {}, "N and D"),
    (("chinchilla", {"N": [1, 2]}, [1, 2]), {}, "N and D"), (("power_law", [1, 2], [1]), {}, "equal length"),
    (("power_law", [1, 2], [1, 2]), {"loss": "hubert"}, "square, huber"),
    (("power_law", [1, 2, 3], [3, 2, 1]), {"solver": "varpro"}, "residuals='y'"),
    (("power_law", [1, 2, 3], [3, 2, 1]), {"loss": "huber", "delta": -1}, "above 0")])
def test_a_wrong_call_is_told_in_one_line(arguments, options, named):
    with pytest.raises(UserError, match=named):
        fit(*arguments, **options)


def test_profile_of_huber_is_refused():
    with pytest.raises(UserError, match="bootstrap_runs"):
        fit("power_law_floor", *bent(), loss="huber").intervals()


def test_every_form_has_a_formula():
    for law in LAWS:
        assert law.formula().startswith("y = ") and "nan" not in law.formula()
        assert type(law).from_theta(law.theta()) == type(law)(*(pytest.approx(v) for v in law.coefficients().values()))
    assert set(FORMS) == {law.NAME for law in LAWS} and not math.isnan(LAWS[0].change_at_double())


def test_the_example_of_the_page_runs(repository, capsys):
    matplotlib.use("Agg")
    page = (repository / "docs" / "laws.md").read_text(encoding="utf-8")
    exec(compile(page.split("```python\n")[1].split("```")[0], "docs/laws.md", "exec"), {})
    assert "alpha" in capsys.readouterr().out
