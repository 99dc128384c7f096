"""A larger run from smaller ones: the four ways, intervals that cover without being huge, and published ladders with a known future."""

import csv
import importlib.util
import sys

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.scaling.forecast import ALONG, EQUAL_DATA, EQUAL_RATIO, SURFACE, Rungs, forecast
from ditscale.scaling.laws import Chinchilla

LAW = Chinchilla(E=0.4, A=0.3, B=0.4, alpha=0.3, beta=0.35)                    # sizes and data in units of the smallest


def rungs(lengths, sizes=(1, 4, 16), seeds=1, luck=0.002, checkpoints=8, seed=0):
    """``lengths`` of a size: multiples of the smallest's data."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        for length in lengths(size):
            for number in range(seeds):
                data = length * np.arange(1, checkpoints + 1) / checkpoints
                loss = LAW.evaluate({"N": np.full(checkpoints, float(size)), "D": data}) * np.exp(luck * rng.standard_normal())
                rows += [(size, d, one, f"{size}-{length}-{number}") for d, one in zip(data, loss)]
    size, data, loss, run = zip(*rows)
    return Rungs(np.array(size, float), np.array(data), np.array(loss), np.array(run))


def truth(size, data):
    return float(LAW.evaluate({"N": np.array([float(size)]), "D": np.array([float(data)])})[0])


@pytest.mark.parametrize("ladder, size, data, way", [
    (rungs(lambda size: [size, 2 * size, 4 * size]), 24, 24, SURFACE),
    (rungs(lambda size: [8], sizes=(1, 2, 4, 8), seeds=3), 16, 8, EQUAL_DATA),
    (rungs(lambda size: [8], sizes=(1, 2, 4, 8), seeds=3), 16, 6.3, EQUAL_DATA),          # between checkpoints, by the runs' curves
    (rungs(lambda size: [4 * size], sizes=(1, 2, 4, 8), seeds=3), 16, 64, EQUAL_RATIO),
    (rungs(lambda size: [8], sizes=(2, 4, 8), seeds=3, seed=1), 12, 12, ALONG)])
def test_each_design_has_its_way(ladder, size, data, way):
    found = forecast(ladder, size, data)
    assert found.way == way
    assert found.value == pytest.approx(truth(size, data), rel=0.02) and truth(size, data) in found.interval
    assert found.half_width < 0.1 and found.freedom >= 1
    assert not found.far and found.card()["way"] == way


def test_three_sizes_have_no_floor_unless_it_is_pinned():
    ladder = rungs(lambda size: [8], seeds=3, luck=0.02)
    assert "E" not in forecast(ladder, 32, 8).fit.law.coefficients()
    pinned = forecast(ladder, 32, 8, pinned={"E": LAW.E + LAW.B * 8**-LAW.beta, "beta": 0.3})
    assert pinned.fit.law.coefficients()["E"] == LAW.E + LAW.B * 8**-LAW.beta
    assert pinned.value == pytest.approx(truth(32, 8), rel=0.03) and pinned.half_width < 0.08


def test_the_last_rung_is_held_out_by_the_same_procedure():
    found = forecast(rungs(lambda size: [size, 2 * size, 4 * size], sizes=(1, 3, 9, 27)), 54, 54)
    assert found.last_rung.size == 27 and found.last_rung.data == 4 * 27 and found.last_rung.inside
    assert abs(found.last_rung.error) < 0.02
    assert forecast(rungs(lambda size: [size, 2 * size, 4 * size]), 24, 24).last_rung is None       # two sizes stay


def test_far_targets_are_called_far():
    ladder = rungs(lambda size: [size, 2 * size, 4 * size])
    near, far = forecast(ladder, 64, 64), forecast(ladder, 640, 640)
    assert near.reach == pytest.approx(4) and not near.far and far.far
    assert far.half_width > near.half_width


def test_a_ladder_with_one_length_is_forecast_at_its_ratio_which_need_not_be_that_of_the_size():
    """One evaluation per run, at 10 units of each size's own, rounded up to whole batches; the surface has too few points."""
    sizes = 4.0 ** np.arange(6)
    unit = sizes**0.8
    data = np.ceil(10 * unit / 0.05) * 0.05
    score = LAW.E + 0.8 * (10 * unit) ** -0.4
    ladder = Rungs(sizes, data, score, [f"r{size:g}" for size in sizes], unit)
    found = forecast(ladder, 4096.0, 10 * 4096**0.8, unit=4096**0.8)
    assert found.way == "equal ratio" and found.value == pytest.approx(LAW.E + 0.8 * (10 * 4096**0.8) ** -0.4, rel=1e-3)
    with pytest.raises(UserError, match="equal ratio: 0 sizes trained as long"):
        forecast(ladder, 4096.0, 20 * 4096**0.8, unit=4096**0.8)
    with pytest.raises(UserError, match="equal ratio: [01] size"):
        forecast(Rungs(sizes, data, score, ladder.runs), 4096.0, 10 * 4096**0.8)                          # by the size itself, the ratios differ


def test_without_a_way_every_reason_is_said():
    with pytest.raises(UserError, match="no prediction: surface: 2 sizes; 3 are needed; equal data: 2 sizes trained as long; .*along runs.*Add a size"):
        forecast(rungs(lambda size: [8], sizes=(1, 4)), 16, 8)
    with pytest.raises(UserError, match="way 'slice' is not one of surface"):
        forecast(rungs(lambda size: [8]), 16, 8, way="slice")
    with pytest.raises(UserError, match="the target's size is -1"):
        forecast(rungs(lambda size: [8]), -1, 8)


@pytest.fixture(scope="module")
def bench(request):
    path = request.config.rootpath / "benchmarks" / "coverage_predict.py"
    spec = importlib.util.spec_from_file_location("coverage_predict", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage_predict"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("design, loss_width, score_width", [("lengths", 0.012, 0.11), ("seeds", 0.016, 0.15)])
def test_intervals_cover_and_are_not_huge(bench, design, loss_width, score_width):
    held = bench.coverage(design, 100)
    assert 0.90 <= held.loss <= 0.99 and held.loss_width < loss_width
    assert 0.90 <= held.score <= 1.0 and held.score_width < score_width
    assert held.refused <= 5 and held.loss_error < held.loss_width


@pytest.mark.slow
def test_published_ladders_predict_their_larger_runs(scaling_data):
    """Gadre et al. 2403.08540: 11M to 412M parameters predict 1.4B (3.5 times beyond), on three data sets and two validation sets."""
    with open(scaling_data / "gadre_overtraining_loss.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = []
    for data_set in sorted({row["dataset"] for row in rows}):
        for column in ("loss_c4_val", "loss_openlm"):
            own = [row for row in rows if row["dataset"] == data_set]
            small = [row for row in own if float(row["params"]) < 5e8]
            ladder = Rungs(*(np.array([float(row[name]) for row in small]) for name in ("params", "tokens", column)),
                           np.array([row["name"] for row in small]))
            for row in (row for row in own if 1e9 < float(row["params"]) < 2e9):
                made = forecast(ladder, float(row["params"]), float(row["tokens"]))
                found.append((float(row[column]) in made.interval, made.value / float(row[column]) - 1, made.half_width))
    held, errors, widths = np.array(found).T
    assert len(held) == 12 and held.sum() >= 11
    assert np.abs(errors).max() < 0.06 and np.sqrt(np.mean(errors**2)) < 0.03 and np.median(widths) < 0.1
