"""Score by loss: the line is found, its interval covers, and sizes that differ at equal loss are told from those that do not."""

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.interval import Interval
from ditscale.scaling.link import fit_link


def made(seed=0, sizes=3, seeds=3, differ=0.0, noise=0.02, checkpoints=8):
    """Score = 2 + 30 (loss - 0.3)^5, the runs of each size over overlapping losses."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in range(sizes):
        for number in range(seeds):
            loss = np.geomspace(1.0 - 0.06 * size, 0.75 - 0.05 * size, checkpoints)
            luck = noise * rng.standard_normal() + noise * rng.standard_normal(checkpoints) + differ * size
            rows += [(one, score, f"{size}-{number}", 10.0**size) for one, score in zip(loss, (2 + 30 * (loss - 0.3) ** 5) * np.exp(luck))]
    loss, score, run, size = zip(*rows)
    return np.array(loss), np.array(score), np.array(run), np.array(size)


def test_exact_points_give_the_line_and_its_value_beyond_them():
    link = fit_link(*made(noise=0.0))
    assert link.score(0.6) == pytest.approx(2 + 30 * 0.3**5, rel=2e-3)
    assert link.exponent == pytest.approx(5, rel=0.2) and 0 < link.score_floor < 2.2
    pinned = fit_link(*made(noise=0.0), score_floor=2.0)
    assert pinned.score_floor == pytest.approx(2.0) and pinned.score(0.6) == pytest.approx(2 + 30 * 0.3**5, rel=2e-3)
    assert pinned.hold_out == pytest.approx(0.0, abs=5e-3)


def test_intervals_of_a_new_run_cover_and_are_not_huge():
    truth, held, widths = 2 + 30 * (0.61 - 0.3) ** 5, [], []
    for seed in range(40):
        rng = np.random.default_rng([seed, 1])
        found = fit_link(*made(seed)).interval(0.61)
        held.append(truth * np.exp(0.02 * rng.standard_normal() + 0.02 * rng.standard_normal()) in found)
        widths.append(np.log(found.high / found.low) / 2)
    assert 0.9 <= np.mean(held) <= 1.0
    assert np.median(widths) < 0.12                                            # the noise alone is 1.96 x 0.028 = 0.055


def test_an_uncertain_loss_widens_the_score_by_the_line():
    link = fit_link(*made(noise=0.003))
    wide, narrow = link.interval(0.65, Interval(0.55, 0.75)), link.interval(0.65)
    middle = float(link.score(0.65))
    for loss, end, own in ((0.55, wide.low, narrow.low), (0.75, wide.high, narrow.high)):
        assert abs(np.log(end / middle)) == pytest.approx(np.hypot(np.log(link.score(loss) / middle), np.log(own / middle)))
    assert wide.low < narrow.low < middle < narrow.high < wide.high


def test_sizes_that_differ_at_equal_loss_are_told_apart():
    refused = [fit_link(*made(seed, differ=0.12, noise=0.015)).one_line.refused for seed in range(12)]
    accepted = [fit_link(*made(seed, noise=0.015)).one_line.refused for seed in range(20)]
    assert np.mean(refused) > 0.7 and np.mean(accepted) <= 0.05
    assert "loss does not determine the score here" in fit_link(*made(0, differ=0.2)).one_line.sentence
    alone = fit_link(*made(0, seeds=1, differ=0.2)).one_line                    # luck and size are one thing there
    assert alone.p is None and "seed noise cannot be separated from size" in alone.sentence


def test_the_losses_floor_lies_below_what_is_asked():
    """A curve that flattens early is fitted best by a floor just under the last loss, beyond which nothing could improve."""
    loss, _, run, size = made(noise=0.0)
    flat = 50 + 40 * (loss - 0.64) ** 0.4
    assert fit_link(loss, flat, run, size).loss_floor > 0.6
    asked = fit_link(loss, flat, run, size, asked=0.5)
    assert asked.loss_floor < 0.5 and asked.score(0.52) > asked.score(0.5) > 0


def test_what_cannot_be_tested_or_fitted_is_said():
    loss, score, run, size = made(sizes=1)
    assert fit_link(loss, score, run, size).one_line.reason == "there is only one size"
    apart = loss - 0.5 * (np.arange(len(loss)) >= len(loss) // 2)
    assert "no two sizes" in fit_link(np.sort(apart)[::-1], np.sort(score)[::-1], run, (np.sort(apart)[::-1] < 0.5) + 1.0).one_line.reason
    with pytest.raises(UserError, match="2 runs with both loss and score, at 16 checkpoints"):
        fit_link(loss[:16], score[:16], run[:16], size[:16])
    with pytest.raises(UserError, match="the score does not fall with the loss"):
        fit_link(loss, 1 / score, run, size)
    with pytest.raises(UserError, match="score floor 90 must be at least 0 and below the lowest score"):
        fit_link(loss, score, run, size, score_floor=90.0)
