"""Runs far from their siblings are named, and every answer is given with and without them."""

import json

import numpy as np
import pytest

from ditscale.scaling import outliers
from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import REAL
from ditscale.scaling.fitting import fit
from ditscale.scaling.frontier import frontier
from ditscale.scaling.multiplier import multiplier
from ditscale.scaling.noise import pooled_noise
from ditscale.scaling.quality import time_to_quality

X = np.repeat(np.geomspace(1e17, 1e20, 5), 3)
RUNS = np.array([f"size{i // 3} s{i % 3}" for i in range(15)])
LEVELS = np.array([0.00, 0.01, -0.02] * 5)


def scores(factor=1.0):
    y = 10 * (X / 1e17) ** -0.1 * np.exp(LEVELS)
    y[-2] *= factor                                                            # s1 of the largest size
    return y


def variant(lucks, name, factor=1.0, alpha=0.4, cheaper=1.0, jitter=0.0):
    """Runs on a power law; the first one ends ``factor`` times too high at its last two of nine checkpoints."""
    costs = np.geomspace(1e17, 1e19, 9) * np.exp(jitter * np.arange(len(lucks))[:, None])
    y = np.array(lucks)[:, None] * 50 * (costs * cheaper / 1e17) ** -alpha
    y[0, -2:] *= factor
    return Runs(costs.ravel(), y.ravel(), np.repeat(np.arange(len(lucks)), 9), name=name)


LUCKS, OTHERS = (1.01, 0.99, 1.0, 1.005), (0.99, 1.02, 1.0)


def test_the_rule_by_hand():
    """Differences of siblings are 0.01, 0.02 and 0.03, five times each; the outlier's are ln 2 and a little: their median is 0.02."""
    found = outliers.of_points(scores(2.0), np.repeat(np.arange(5), 3), RUNS, lambda i: f"at {X[i]:.0e}")
    [one] = found.found
    assert found.sigma == pytest.approx(0.02 / (np.sqrt(2) * 0.67449), rel=1e-4)
    assert (one.run, one.where, one.times, one.points) == ("size4 s1", "at 1e+20", 1, 1)
    assert one.factor == pytest.approx(2 * np.exp(0.01)) and one.deviation == pytest.approx((np.log(2) + 0.01) / found.sigma)
    assert "run 'size4 s1' scores 2.02 times its siblings' median" in found.sentence and "the rule: 5 robust" in found.sentence
    assert json.loads(json.dumps(found.card(), allow_nan=False))["runs"][0]["factor"] == one.factor


@pytest.mark.parametrize("factor, named", [(1.05, False), (1.2, True), (0.7, True)])
def test_it_takes_five_deviations_and_a_tenth_of_the_score(factor, named):
    y = scores(factor)
    assert bool(outliers.of_points(y, np.repeat(np.arange(5), 3), RUNS, str).found) == named
    close = np.exp(np.log(scores()) - 0.99 * LEVELS)                           # seeds that hardly differ
    close[0] *= 1.09
    assert not outliers.of_points(close, np.repeat(np.arange(5), 3), RUNS, str).found


def test_of_two_siblings_none_is_named():
    kept = np.arange(15) % 3 < 2
    assert not outliers.of_points(scores(2.0)[kept], np.repeat(np.arange(5), 3)[kept], RUNS[kept], str).found
    assert outliers.of_points([1.0, 2.0], [0, 1], ["a", "b"], str) == outliers.Outliers()


def test_a_law_is_given_with_and_without():
    """One seed of the largest size at twice its siblings: the law there moves, and says so."""
    y = scores(2.0)
    found, kept = fit("power_law", X, y, RUNS), RUNS != "size4 s1"
    clean = fit("power_law", X[kept], y[kept], RUNS[kept])
    assert found.outliers.runs == ("size4 s1",) and found.without.law == clean.law and found.n_runs == 15
    moved = found.law.evaluate(X[-1:])[0] / clean.law.evaluate(X[-1:])[0] - 1
    assert moved > 0.1 and f"the law changes by {moved:+.1%} at x = 1e+20" in found.sentence
    card = json.loads(json.dumps(found.card(), allow_nan=False))
    assert card["outliers"]["runs"][0]["run"] == "size4 s1" and card["coefficients_without_outliers"] == clean.law.coefficients()
    good = fit("power_law", X, scores(), RUNS)
    assert good.without is None and good.sentence == "the result is valid"


def test_a_multiplier_is_given_with_and_without():
    """A diverged run of four; both variants name their runs alike."""
    pair = variant(LUCKS, "masked", 4.0, cheaper=2.0), variant(OTHERS, "baseline")
    found, clean = multiplier(*pair), multiplier(pair[0].without(["0"]), pair[1])
    [one] = found.outliers.found
    assert (one.run, one.of, one.times, one.points) == ("0", "masked", 2, 9)
    assert found.without.overall == clean.overall and clean.overall.verdict == REAL and clean.overall.seeds == (3, 3)
    assert found.score_range[0] > clean.score_range[0] and "Without it: REAL: " in found.sentence     # it cuts the range short
    assert json.loads(json.dumps(found.card(), allow_nan=False))["without_outliers"]["overall"]["verdict"] == REAL
    good = multiplier(variant(LUCKS, "masked", cheaper=2.0), variant(OTHERS, "baseline"))
    assert good.without is None and "Outlier" not in good.sentence


def test_siblings_are_compared_between_their_checkpoints():
    """At costs that differ run by run, on one curve: nobody is far; and the diverged one still is."""
    assert not outliers.of_runs([variant(OTHERS, "baseline", jitter=0.1)]).found
    assert outliers.of_runs([variant(OTHERS, "baseline", 2.0, jitter=0.1)]).runs == ("0",)


def test_noise_and_frontier_are_given_with_and_without():
    y = scores(3.0)
    cells = np.repeat(np.arange(5), 3)
    noise, kept = pooled_noise(y, cells, RUNS), RUNS != "size4 s1"
    clean = pooled_noise(y[kept], cells[kept], RUNS[kept])
    assert noise.without.sigma == clean.sigma < 0.03 < noise.sigma and "Outlier: run 'size4 s1'" in noise.sentence
    found = frontier(X, y, cells, RUNS)
    assert found.without.noise.sigma == clean.sigma and found.without.by_name["4"].score < found.by_name["4"].score
    assert found.sentence.count("on the frontier") == 2
    json.dumps(found.card(), allow_nan=False)


def test_time_to_quality_is_given_with_and_without():
    runs = variant(LUCKS, "masked", 4.0)
    found, clean = time_to_quality(runs, 9.0), time_to_quality(runs.without(["0"]), 9.0)
    assert found.without.cost == clean.cost and not np.isfinite(found.cost) and "Without it: a score of 9 takes" in found.sentence
    json.dumps(found.card(), allow_nan=False)


def test_clean_studies_name_hardly_anybody():
    named = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sides = [variant(np.exp(0.05 * rng.standard_normal(3)), name) for name in ("masked", "baseline")]
        wobbly = [Runs(side.cost, side.score * np.exp(0.015 * rng.standard_normal(len(side.cost))), side.runs, name=side.name)
                  for side in sides]
        named += bool(outliers.of_runs(wobbly).found)
    assert named <= 3


def test_the_file_with_a_diverged_run(inputs):
    from ditscale.figures.kit import study_table
    from ditscale.studies.table.study import Study

    study = Study(inputs, study_table.read(inputs / "trust_diverged.csv"))
    found = study.multiplier("masked")
    [one] = found.outliers.found
    assert one.run == "masked-s0" and one.factor == pytest.approx(4.0, rel=0.01) and one.times == 3 and "images" in one.where
    assert "Without it: INCONCLUSIVE" in found.sentence and "2 seeds are too few" in found.sentence
    assert study.noise().without.sigma < 0.01 < study.noise().sigma
