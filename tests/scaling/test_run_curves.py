"""Runs that were never cut at a budget give the isoFLOP optimum of the surface that made them; nothing is read outside a run."""

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.approaches import approach2
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.run_curves import equal_data_slices, equal_ratio_slices, isoflop_slices, run_curves

LAW = Chinchilla(E=0.4, A=120.0, B=60.0, alpha=0.3, beta=0.3)


def points(sizes=9, checkpoints=16, wobble=0.0):
    size = np.repeat(np.geomspace(3e7, 3e9, sizes), checkpoints)
    data = np.tile(np.geomspace(3e6, 3e8, checkpoints), sizes)
    noise = np.exp(wobble * np.random.default_rng(3).standard_normal(len(size)))
    return size, data, LAW.evaluate({"N": size, "D": data}) * noise, np.repeat([f"run{i}" for i in range(sizes)], checkpoints)


def test_slices_of_long_runs_find_the_optimum_of_the_surface():
    slices = isoflop_slices(run_curves(*points()), [1e16, 2e16, 4e16, 8e16], k=3.0)
    assert slices.error < 1e-3
    assert np.allclose(slices.score, LAW.evaluate({"N": slices.size, "D": slices.data}), rtol=3e-4)
    line = approach2(slices.size, slices.data, slices.score, k=3.0, budget=slices.level, method="akima")
    assert not line.off_center and len(line.valleys) == 4
    assert line.exponent == pytest.approx(LAW.a, abs=0.01)
    assert line.size(3e16) == pytest.approx(LAW.optimal_size(3e16, 3.0), rel=0.03)


def test_leave_one_out_is_the_error_of_reading_between_checkpoints():
    size, data, score, runs = points(sizes=1, checkpoints=8)
    curve = run_curves(size, data, score, runs)[0]
    between = np.sqrt(data[:-1] * data[1:])
    true = np.sqrt(np.mean((curve.at(between) / LAW.evaluate({"N": size[:-1], "D": between}) - 1) ** 2))
    assert true < curve.leave_one_out < 40 * true                              # it reads over gaps twice as wide
    noisy = run_curves(*points(sizes=1, checkpoints=40, wobble=0.02))[0]
    assert 0.02 < noisy.leave_one_out < 0.04


def test_ratios_and_amounts_are_read_where_the_runs_were_and_said_where_not():
    curves = run_curves(*points(sizes=4))
    data, ratio = equal_data_slices(curves, [1e7, 1e9]), equal_ratio_slices(curves, [0.2])
    assert len(data.size) == 4 and {(m.run, m.why) for m in data.missed} == {(f"run{i}", "needs 1e+09, ends at 3e+08") for i in range(4)}
    assert np.allclose(ratio.data / ratio.size, 0.2) and [m.run for m in ratio.missed] == ["run3"]
    late = run_curves(*points(sizes=1), after=1e7)[0]
    assert late.data[0] > 1e7 and np.isnan(late.at(9e6)) and np.isfinite(late.at(late.data[-1]))


def test_short_runs_have_no_curve_and_mixed_ones_are_refused():
    assert run_curves([1, 1], [1, 2], [3.0, 2.0], ["a", "a"]) == []
    with pytest.raises(UserError, match="run 'a' has two sizes, 1 and 2"):
        run_curves([1, 2, 2], [1, 2, 3], [3.0, 2.0, 1.0], ["a", "a", "a"])
    with pytest.raises(UserError, match="score is 0 at index 1"):
        run_curves([1, 1], [1, 2], [3.0, 0.0], ["a", "a"])
