"""The best learning rate by vertex and interval, and whether it transfers."""

import math

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.learning_rate import SHIFTS, TRANSFERS, UNDECIDED, optimum, rate_law, transfer

RATES = 2.0 ** np.arange(-11, -6)


def valley(best, seeds=3, noise=0.004, curvature=0.02, generator=None, rates=RATES):
    generator = generator or np.random.default_rng(0)
    at = np.repeat(np.log2(rates), seeds)
    return 2.0**at, 0.5 * np.exp(curvature * (at - best) ** 2 + noise * generator.standard_normal(len(at)))


def test_the_vertex_of_a_parabola_is_exact():
    found = optimum(*valley(-8.7, noise=0.0))
    assert found.log2_rate == pytest.approx(-8.7, abs=1e-9) and found.rates in (4, 5) and not found.reason
    assert found.loss(-8.7) == pytest.approx(0.5)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator, held, shown = np.random.default_rng(1), 0, 0
    for _ in range(400):
        found = optimum(*valley(-9.2, noise=0.01, generator=generator))
        shown += found.has_interval
        held += found.has_interval and found.low <= -9.2 <= found.high
    assert shown > 350 and 0.92 <= held / shown <= 0.98


def test_verdicts():
    generator = np.random.default_rng(2)
    assert transfer({"a": optimum(*valley(-9.0, generator=generator)), "b": optimum(*valley(-9.1, generator=generator))}).verdict == TRANSFERS
    moved = transfer({"a": optimum(*valley(-8.5, generator=generator)), "b": optimum(*valley(-9.7, generator=generator))})
    assert moved.verdict == SHIFTS and moved.shifts["b"][0] == pytest.approx(-1.2, abs=0.3) and "from a to b" in moved.reason
    unclear = transfer({"a": optimum(*valley(-9.0, noise=0.05, generator=generator)), "b": optimum(*valley(-9.1, noise=0.05, generator=generator))})
    assert unclear.verdict == UNDECIDED


def test_a_null_is_rarely_called_a_shift():
    generator = np.random.default_rng(3)
    verdicts = [transfer({name: optimum(*valley(-9.0, noise=0.01, generator=generator)) for name in "abc"}).verdict for _ in range(200)]
    assert verdicts.count(SHIFTS) <= 4


def test_diverged_runs_are_the_right_edge():
    rates, losses = valley(-9.0)
    losses[rates == RATES[-1]] = math.nan
    found = optimum(rates, losses)
    assert found.edge == -7 and found.rates == 4 and found.log2_rate == pytest.approx(-9.0, abs=0.3)
    losses[rates == RATES[-2]] *= 3                                            # finite, and far above
    assert optimum(rates, losses).edge == -8


@pytest.mark.parametrize("best, rates, words", [(-13, RATES, "the lowest one tried"), (-5, RATES, "the highest one tried"), (-10, RATES[:3], "3 stable rates")])
def test_no_vertex(best, rates, words):
    found = optimum(*valley(best, rates=rates, noise=0.0))
    assert words in found.reason and math.isnan(found.log2_rate)
    assert transfer({"a": optimum(*valley(-9.0)), "b": found}).verdict == UNDECIDED


def test_what_is_no_rate_is_refused():
    with pytest.raises(UserError, match="must be above 0"):
        optimum([0.0, 1.0], [1.0, 1.0])
    assert optimum([1e-3, 2e-3], [math.inf, math.nan]).reason == "every rate diverged"


def test_the_law_over_sizes_holds_its_exponent():
    """Rates that fall as size^-0.5: the interval holds it as often as it says."""
    generator, sizes, held = np.random.default_rng(4), {"a": 1.0, "b": 2.0, "c": 4.0}, 0
    for _ in range(200):
        optima = {name: optimum(*valley(-8.5 - 0.5 * math.log2(size), noise=0.01, generator=generator)) for name, size in sizes.items()}
        law = rate_law(optima, sizes)
        held += law is not None and law.low <= -0.5 <= law.high
    assert 184 <= held <= 198
    assert rate_law({"a": optimum(*valley(-9.0))}, sizes) is None
