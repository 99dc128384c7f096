"""Time to quality: exact on a law, and censored runs told with what is known of them."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from ditscale.scaling.curves import Runs
from ditscale.scaling.quality import BEFORE, NOT_REACHED, REACHED, time_to_quality
from ditscale.scaling.status import Status

COSTS = np.geomspace(1.0, 256.0, 9)


def runs(lucks, ends=None):
    """Runs on 64 C^-0.5 times their luck; ``ends`` cuts a run to so many checkpoints."""
    ends = ends or [len(COSTS)] * len(lucks)
    parts = [(COSTS[:end], 64 * luck * COSTS[:end] ** -0.5, np.full(end, f"s{i}")) for i, (luck, end) in enumerate(zip(lucks, ends))]
    return Runs(*map(np.concatenate, zip(*parts)))


def test_cost_and_interval_of_three_seeds():
    lucks = (1.0, 1.1, 0.95)
    found = time_to_quality(runs(lucks), 16.0, cost_unit="GPU-hours")
    assert [run.cost for run in found.runs] == pytest.approx([(64 * luck / 16) ** 2 for luck in lucks])
    logs = np.log([run.cost for run in found.runs])
    low, high = stats.t.interval(0.95, 2, logs.mean(), logs.std(ddof=1) / math.sqrt(3))
    assert (found.cost, found.interval.low, found.interval.high) == pytest.approx(np.exp([logs.mean(), low, high]))
    assert "GPU-hours, 95 % interval" in found.sentence


def test_a_run_that_never_gets_there_is_told():
    found = time_to_quality(runs((1.0, 1.0, 1.0), ends=[9, 9, 4]), 16.0)
    assert [run.state for run in found.runs] == [REACHED, REACHED, NOT_REACHED] and found.runs[2].cost == pytest.approx(8.0)
    assert found.status is Status.NOT_REACHED and math.isnan(found.cost) and found.interval is None
    assert found.at_least == pytest.approx((16 * 16 * 8) ** (1 / 3))
    assert "more than 12.7" in found.sentence and "1 of 3 runs did not reach it, including run 's2'" in found.sentence


def test_a_run_that_began_past_it_is_told():
    found = time_to_quality(runs((1.0, 1.0, 0.5)), 40.0)
    assert found.runs[2].state == BEFORE and found.status is Status.NO_COMMON_RANGE and math.isnan(found.at_least)
    assert "past it at their first evaluation" in found.sentence
    assert json.loads(json.dumps(found.card(), allow_nan=False))["at_least"] is None


def test_two_seeds_have_a_cost_and_no_interval():
    found = time_to_quality(runs((1.0, 1.1)), 16.0)
    assert found.cost == pytest.approx(16 * 1.1) and found.interval is None and "2 seeds: no interval" in found.sentence
    assert time_to_quality(Runs([1, 2], [1, -1], ["a", "a"]), 1.0).status is Status.BAD_DATA
