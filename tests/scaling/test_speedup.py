"""Effective speed-up is the ratio of computes along the law, covers it at three seeds, and refuses floors above a loss."""

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import INCONCLUSIVE, REAL
from ditscale.scaling.speedup import effective_speedup
from ditscale.scaling.tokens import images_for, tokens_per_parameter

E, A, ALPHA = 0.5, 8.0, 0.2


def runs(name, faster=1.0, seeds=3, luck=0.0, seed=0, ends=(1e3, 1e4)):
    cost = np.geomspace(*ends, 12)
    draws = np.random.default_rng([seed, *name.encode()]).standard_normal(seeds)
    score = np.concatenate([(E + A * (cost * faster) ** -ALPHA) * np.exp(luck * draw) for draw in draws])
    return Runs(np.tile(cost, seeds), score, np.repeat([f"{name}{i}" for i in range(seeds)], len(cost)), name=name)


def test_it_is_the_ratio_of_compute_on_the_law():
    found = effective_speedup(runs("new", faster=1.7), runs("old"), floor=E, exponent=ALPHA)
    assert found.value == pytest.approx(1.7, rel=1e-6) and found.verdict == REAL
    inverse = effective_speedup(runs("old"), runs("new", faster=1.7), floor=E, exponent=ALPHA)
    assert inverse.value == pytest.approx(1 / 1.7, rel=1e-6)
    # Marin: ((L_worse - E) / (L_better - E))^(1/alpha)
    pair = [Runs([1, 2], [E + first, E + last], [name, name]) for name, first, last in (("a", 1.0, 0.9), ("b", 1.2, 1.0))]
    assert effective_speedup(pair[0], pair[1], floor=E, exponent=ALPHA).value == pytest.approx((1.0 / 0.9) ** (1 / ALPHA))


def test_the_sentence_and_the_card_have_what_was_pinned():
    found = effective_speedup(runs("new", faster=1.7, luck=0.001), runs("old", luck=0.001), floor=E, exponent=ALPHA)
    assert found.sentence.startswith("REAL: to reach the loss of new at a cost of 1e+04, old needs 1.") and "E = 0.5 and alpha = 0.2 pinned" in found.sentence
    card = found.card()
    assert card["pinned"] == {"E": E, "alpha": ALPHA} and card["low"] < 1.7 < card["high"] and card["cost"] == pytest.approx(1e4)


def test_the_interval_covers_and_needs_three_seeds():
    held = [1.3 in effective_speedup(runs("new", 1.3, luck=0.003, seed=s), runs("old", luck=0.003, seed=s), floor=E, exponent=ALPHA).interval
            for s in range(300)]
    assert 0.91 < np.mean(held) < 0.985
    two = effective_speedup(runs("new", 1.3, seeds=2, luck=0.003), runs("old", luck=0.003), floor=E, exponent=ALPHA)
    assert two.interval is None and two.verdict == INCONCLUSIVE and two.seeds == (2, 3)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UserError, match="floor 2 must be at least 0 and below every loss; run 'new0' has 1.7"):
        effective_speedup(runs("new"), runs("old"), floor=2, exponent=ALPHA)
    with pytest.raises(UserError, match="run 'old0' was not scored on both sides of a cost of 9000; all runs have reached 5000"):
        effective_speedup(runs("new"), runs("old", ends=(1e3, 5e3)), floor=E, exponent=ALPHA, cost=9e3)
    with pytest.raises(UserError, match="exponent 0 must be above 0"):
        effective_speedup(runs("new"), runs("old"), floor=E, exponent=0)


def test_tokens_per_parameter_of_the_usual_400k_steps():
    images = 400_000 * 256
    assert [round(float(tokens_per_parameter(images, 256, n))) for n in (33e6, 130e6, 458e6, 675e6)] == [794, 202, 57, 39]
    assert images_for(165, 256, 675e6) == pytest.approx(435e6, rel=1e-3)
    assert tokens_per_parameter(images_for(200, 64, 5e6), 64, 5e6) == pytest.approx(200)
