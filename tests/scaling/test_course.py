"""A multiplier's verdict holds over the whole range, or says where it turns: exact crossings, a file, and made-up studies."""

import json

import numpy as np
import pytest

from ditscale.scaling.course import IN_PART, TURNS
from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import INCONCLUSIVE, REAL
from ditscale.scaling.multiplier import multiplier

COSTS = np.geomspace(1e17, 1e19, 9)
LUCKS, OTHERS = (1.003, 0.998, 1.001), (0.999, 1.002, 1.0)


def runs(scores, lucks, name):
    """Runs on one curve ``(9,)``, each times its luck."""
    names = np.repeat(np.arange(len(lucks)), len(COSTS))
    return Runs(np.tile(COSTS, len(lucks)), np.concatenate([luck * scores for luck in lucks]), names, name=name)


def crossing(lucks=LUCKS, others=OTHERS, at=1e18, **facts):
    """The variant falls slower and is passed where both have spent ``at``."""
    variant, baseline = 20 * (COSTS / at) ** -0.25, 20 * (COSTS / at) ** -0.4
    return multiplier(runs(variant, lucks, "masked"), runs(baseline, others, "baseline"), score_unit="fid", cost_unit="FLOPs", **facts)


@pytest.fixture(scope="module")
def made(benchmark_module):
    return benchmark_module("verdicts")


def test_a_crossing_is_told_where_it_is():
    """Cheaper above a score of 20, dearer below: CM = (f / 20)^(1/0.25 - 1/0.4)."""
    found = crossing()
    early, late = found.course.real_parts
    assert found.overall.verdict == TURNS and found.sentence.startswith("TURNS: for the same fid masked is cheaper up to a fid of ")
    assert (early.side, late.side) == ("cheaper", "dearer") and early.from_start and late.to_end
    assert min(early.scores) > 20 > max(late.scores) and early.costs[1] < 1e18 < late.costs[0]
    [(above, below)] = found.course.passes_one
    assert above > 19.8 and below < 20.2                                       # the seeds' luck moves it by 0.2 %
    for part in (early, late):
        truth = [(score / 20) ** (1 / 0.25 - 1 / 0.4) for score in part.scores]
        assert min(truth) < part.mean.value < max(truth)
    assert "REAL with a multiplier of" in found.sentence and "dearer from a fid of" in found.sentence
    card = json.loads(json.dumps(found.card(), allow_nan=False))
    assert card["overall"]["verdict"] == TURNS
    assert [part["side"] for part in card["course"]["parts"] if part["side"]] == ["cheaper", "dearer"]


def test_targets_on_one_side_do_not_hide_the_other():
    found = crossing(targets=[30.0, 28.0, 26.0])
    assert all(at.verdict == REAL and at.value > 1 for at in found.targets) and found.overall.verdict == TURNS


def test_a_gain_that_fades_is_real_in_part():
    """Twice as cheap at first, as dear at the end, with seeds that differ by 2 %."""
    gain = 2.0 ** np.linspace(1, 0, len(COSTS))
    law = lambda costs: 50 * (costs / 1e17) ** -0.4
    found = multiplier(runs(law(COSTS * gain), (1.02, 0.98, 1.0), "masked"), runs(law(COSTS), (0.98, 1.02, 1.01), "baseline"))
    [part] = found.course.real_parts
    assert found.overall.verdict == IN_PART and part.side == "cheaper" and part.from_start and not part.to_end
    assert not found.sentence.startswith("REAL") and "elsewhere the data are INCONCLUSIVE" in found.sentence


def test_a_constant_gain_holds_over_the_range():
    law = lambda costs: 50 * (costs / 1e17) ** -0.4
    found = multiplier(runs(law(1.5 * COSTS), LUCKS, "masked"), runs(law(COSTS), OTHERS, "baseline"))
    assert found.overall.verdict == REAL and "holds over the whole range" in found.sentence and found.course.change_p > 0.1
    assert found.course.points[0].target == pytest.approx(found.score_range[1]) == pytest.approx(50 * 1.5**-0.4 * 0.998, rel=0.01)


@pytest.mark.parametrize("seeds", [1, 2])
def test_under_three_seeds_the_turn_is_said_and_no_verdict(seeds):
    found = crossing(LUCKS[:seeds], OTHERS[:seeds])
    assert found.overall.verdict == INCONCLUSIVE and "the estimate passes one between" in found.sentence


def test_the_file_that_was_once_real(inputs):
    from ditscale.figures.kit import study_table
    from ditscale.studies.table.study import Study

    found = Study(inputs, study_table.read(inputs / "trust_early_win.csv")).multiplier("masked")
    early, late = found.course.real_parts
    assert found.overall.verdict == TURNS and (early.side, late.side) == ("cheaper", "dearer")
    assert early.from_start and late.to_end and 1.0 not in found.overall.interval                # the mean alone would be REAL


def test_early_wins_are_never_plainly_real(made):
    facts = {"first": 1.7, "last": 0.8, "bend": 1.0}
    turn = made.score_of_turn(**facts)
    found = made.words(20, made.early_win, turn, seeds=3, sigma=0.01, **facts)
    noisy = made.words(20, made.early_win, turn, seeds=3, sigma=0.03, **facts)
    assert found[REAL] == noisy[REAL] == 0 and found["mean alone"] > 0.9 and found[TURNS] > 0.9
    assert found["of them wholly right"] >= 0.9


def test_no_difference_is_rarely_real_and_a_constant_one_as_often_as_the_mean(made):
    nothing = made.words(40, made.made_pair, seeds=3, sigma=0.02, cheaper=1.0)
    assert nothing[REAL] + nothing[TURNS] + nothing[IN_PART] <= 0.1
    constant = made.words(30, made.made_pair, seeds=3, sigma=0.02, cheaper=1.25)
    assert constant[REAL] >= constant["mean alone"] - 0.07 and constant["mean alone"] > 0.7


@pytest.mark.slow
def test_sixty_early_wins_and_five_hundred_without_a_difference(made):
    facts = {"first": 1.7, "last": 0.8, "bend": 1.0}
    assert made.words(60, made.early_win, made.score_of_turn(**facts), seeds=3, sigma=0.01, **facts)[REAL] == 0
    nothing = made.words(500, made.made_pair, seeds=3, sigma=0.02, cheaper=1.0)
    assert nothing[REAL] + nothing[TURNS] + nothing[IN_PART] <= 0.05
