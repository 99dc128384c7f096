"""Multipliers: exact without noise, SciPy's Welch interval with it, and no word beyond the data or under three seeds."""

import json

import numpy as np
import pytest
from scipy import stats

from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import INCONCLUSIVE, REAL
from ditscale.scaling.multiplier import multiplier
from ditscale.scaling.noise import Noise
from ditscale.scaling.status import Status

COSTS = np.geomspace(1e17, 1e19, 9)


def power_runs(lucks, cheaper=1.0, alpha=0.4, costs=COSTS, name="baseline", model="", sign=-1):
    """Runs on 50 (C / 1e17)^-alpha, each times its luck."""
    scores = [luck * 50 * (costs * cheaper / 1e17) ** (sign * alpha) for luck in lucks]
    runs = np.repeat([f"{model}s{i}" for i in range(len(lucks))], len(costs))
    return Runs(np.tile(costs, len(lucks)), np.concatenate(scores), runs, np.full(len(runs), model), name, sign < 0)


def joined(*parts: Runs) -> Runs:
    return Runs(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("cost", "score", "runs", "models")), parts[0].name)


LUCKS, OTHERS = (1.01, 0.98, 1.02), (0.99, 1.03, 1.0, 1.01)


def test_without_noise_it_is_exact():
    found = multiplier(power_runs((1, 1, 1), 2.5, name="masked"), power_runs((1, 1, 1)))
    assert [at.value for at in found.targets] == pytest.approx([2.5] * 5) and found.overall.value == pytest.approx(2.5)
    assert found.overall.verdict == REAL and found.overall.interval.high == pytest.approx(found.overall.interval.low)
    assert [at.slope for at in found.targets] == pytest.approx([-0.4] * 5)


def test_the_interval_is_welchs_on_the_runs_own_costs():
    """On a power law a run's luck moves ln C by ln luck / alpha, at all targets alike."""
    found = multiplier(power_runs(LUCKS, 2.0), power_runs(OTHERS), [12.0, 20.0, 30.0])
    bounds = stats.ttest_ind(np.log(OTHERS) / 0.4, np.log(LUCKS) / 0.4 + np.log(1 / 2.0), equal_var=False).confidence_interval(0.95)
    for estimate in (*found.targets, found.overall):
        assert (estimate.interval.low, estimate.interval.high) == pytest.approx((np.exp(bounds.low), np.exp(bounds.high)), rel=1e-6)
    assert found.overall.seeds == (3, 4) and "3 and 4 seeds" in found.sentence


def test_the_delta_check_agrees_on_a_straight_law():
    """CoV sqrt(1/n1 + 1/n2) / |slope|, with equally noisy variants of equally many seeds."""
    [at] = multiplier(power_runs(LUCKS, 2.0), power_runs(LUCKS), [20.0]).targets
    assert at.delta_sigma == pytest.approx(np.log(LUCKS).std(ddof=1) * np.sqrt(2 / 3) / 0.4, rel=1e-6)
    assert at.delta_sigma == pytest.approx(at.sigma, rel=1e-6)


def test_noise_from_elsewhere_replaces_that_of_the_runs():
    noise = Noise(Status.CONVERGED, "", 0.02, 30, 15)
    found = multiplier(power_runs(LUCKS, 2.0), power_runs(OTHERS), noise=noise)
    sigma = 0.02 * np.sqrt(1 / 3 + 1 / 4) / 0.4
    assert found.overall.sigma == pytest.approx(sigma) and found.overall.freedom == 30
    assert np.log(found.overall.interval.high / found.overall.value) == pytest.approx(stats.t.ppf(0.975, 30) * sigma)


@pytest.mark.parametrize("seeds, said", [(1, "one seed"), (2, "2 seeds are too few")])
def test_under_three_seeds_there_is_no_interval_and_no_verdict(seeds, said):
    noise = Noise(Status.CONVERGED, "", 0.001, 30, 15)
    for facts in ({}, {"noise": noise}):
        found = multiplier(power_runs(LUCKS[:seeds], 5.0), power_runs(OTHERS), **facts)
        assert found.overall.value == pytest.approx(5.0, rel=0.2) and found.overall.interval is None
        assert found.overall.verdict == INCONCLUSIVE and said in found.sentence


def test_no_difference_is_inconclusive():
    found = multiplier(power_runs(LUCKS), power_runs(OTHERS))
    assert found.overall.verdict == INCONCLUSIVE and found.overall.reason == "the interval contains one"


def test_nothing_beyond_what_both_were_measured_at():
    base = power_runs(OTHERS)
    found = multiplier(power_runs(LUCKS, costs=COSTS[:6]), base, [9.0, 20.0, 1000.0])
    assert [at.status.ok for at in found.targets] == [False, True, False]
    assert "3 of 3 runs did not reach it" in found.targets[0].reason and "past it at their first checkpoint" in found.targets[2].reason
    assert found.overall.value == found.targets[1].value
    apart = multiplier(power_runs(LUCKS, costs=COSTS / 1e4), base)
    assert apart.status is Status.NO_COMMON_RANGE and np.isnan(apart.overall.value) and not apart.targets
    assert "the best score of one is worse than the first of the other" in apart.sentence and not apart.behind
    behind = multiplier(power_runs(LUCKS, 1e-4, name="masked"), base)                         # far worse, so more seeds change nothing
    assert behind.status is Status.NO_COMMON_RANGE and behind.behind == "masked"
    assert behind.sentence.startswith("NOT REACHED: masked over baseline: masked never reaches the ") and "with which baseline begins" in behind.sentence


def test_one_target_is_not_enough_for_a_verdict():
    found = multiplier(power_runs(LUCKS, 5.0), power_runs(OTHERS), [20.0])
    assert found.targets[0].verdict == REAL and found.overall.verdict == INCONCLUSIVE and "3 are needed" in found.overall.reason


def test_a_flat_curve_is_flagged():
    found = multiplier(power_runs(LUCKS, 1.5, alpha=0.05), power_runs(OTHERS, alpha=0.05))
    assert all(at.flat for at in found.targets) and "flat" in found.sentence
    assert not any(at.flat for at in multiplier(power_runs(LUCKS), power_runs(OTHERS)).targets)


def test_higher_may_be_better():
    found = multiplier(power_runs((1, 1, 1), 3.0, sign=1), power_runs((1, 1, 1), sign=1))
    assert found.overall.value == pytest.approx(3.0) and found.score_range[0] < found.score_range[1]


def test_several_models_give_the_least_cost_of_each_variant():
    """Two sizes: the large one starts late and is cheaper from there on."""
    def sides(cheaper):
        small, large = power_runs(LUCKS, cheaper, costs=COSTS, model="S"), power_runs(LUCKS, cheaper, costs=30 * COSTS, model="L")
        return joined(small, Runs(large.cost, large.score * 0.8, large.runs, large.models))
    found = multiplier(sides(2.0), sides(1.0), [10.0, 30.0, 5.0, 3.0])
    assert [at.variant_model for at in found.targets] == [at.baseline_model for at in found.targets]
    assert {at.variant_model for at in found.targets if at.status.ok} == {"S", "L"}
    assert [at.value for at in found.targets if at.status.ok] == pytest.approx([2.0] * sum(at.status.ok for at in found.targets))


def test_a_size_that_one_variant_left_behind_does_not_tip_the_scale():
    """The variant's large model is past the target at its first checkpoint, the baseline's is not: only the small ones compare."""
    def sides(cheaper, name):
        large = power_runs((0.6, 0.6, 0.6), cheaper, costs=10 * COSTS, model="L")
        return joined(power_runs((1, 1, 1), cheaper, model="S", name=name), large)
    target = 0.6 * 50 * 15.0**-0.4                                             # past the first checkpoint at 1.5 x its cost
    [at] = multiplier(sides(2.0, "masked"), sides(1.0, "baseline"), [target]).targets
    assert (at.status.ok and (at.variant_model, at.baseline_model) == ("S", "S") and at.value == pytest.approx(2.0)) or \
        "past it at its first checkpoint, which cost less" in at.reason


@pytest.mark.parametrize("cost, score, said", [([1.0, -2.0], [2.0, 1.0], "x = -2"), ([1.0, 2.0], [2.0, np.nan], "y = nan"),
                                               ([], [], "a variant without a run")])
def test_hopeless_data_is_told(cost, score, said):
    found = multiplier(Runs(cost, score, ["a"] * len(cost)), power_runs(OTHERS))
    assert found.status is Status.BAD_DATA and said in found.sentence and found.overall.verdict == INCONCLUSIVE


def test_cards_are_json_and_plots_are_drawn():
    from matplotlib.figure import Figure

    good = multiplier(power_runs(LUCKS, 2.0), power_runs(OTHERS))
    none = multiplier(power_runs(LUCKS, costs=COSTS / 1e4), power_runs(OTHERS))
    card = json.loads(json.dumps(good.card(), allow_nan=False))
    assert card["overall"]["multiplier"] == pytest.approx(good.overall.value) and len(card["targets"]) == 5
    assert json.loads(json.dumps(none.card(), allow_nan=False))["overall"]["multiplier"] is None
    axes = Figure().subplots(1, 4)
    for ax, draw in zip(axes, (good.plot, good.plot_curves, none.plot, none.plot_curves)):
        draw(ax)
    assert len(axes[0].lines) == 3 + 2 * 5 and len(axes[1].lines) == 7 and axes[2].texts
    assert "2." in axes[1].texts[-1].get_text()
