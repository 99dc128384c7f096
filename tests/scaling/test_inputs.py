"""Points as users hand them in: columns of a pandas table give what arrays give, and what means nothing is one line."""

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.scaling.approaches import approach2
from ditscale.scaling.correlations import pearson_log_x
from ditscale.scaling.curves import Runs
from ditscale.scaling.fitting import fit, fit_power_law
from ditscale.scaling.frontier import frontier
from ditscale.scaling.noise import pooled_noise
from ditscale.scaling.status import Status


@pytest.fixture
def table() -> pd.DataFrame:
    """Four sizes at three lengths, two seeds; the labels are those of a table that was sorted and cut."""
    rng, rows = np.random.default_rng(0), []
    for size in (1e6, 3e6, 1e7, 3e7):
        for data in (1e7, 3e7, 1e8):
            for seed in (0, 1):
                score = (2 + 400 * size**-0.35 + 400 * data**-0.3) * np.exp(0.01 * rng.standard_normal())
                rows.append({"N": int(size), "D": int(data), "train_flops": 6 * size * data, "score": score, "run": f"{size:g}-{data:g}-{seed}"})
    shuffled = pd.DataFrame(rows).sample(frac=1.0, random_state=3)
    shuffled.index = shuffled.index + 100
    return shuffled


def test_a_fit_of_columns_is_the_fit_of_arrays(table):
    of_series = fit("power_law", table.train_flops, table.score, table.run)
    of_arrays = fit("power_law", table.train_flops.to_numpy(), table.score.to_numpy(), table.run.to_numpy())
    assert of_series.law == of_arrays.law and of_series.data_sha256 == of_arrays.data_sha256
    assert fit("power_law", table.train_flops, table.score).n_runs == 24
    by_name, by_frame = fit("chinchilla", {"N": table.N, "D": table.D}, table.score), fit("chinchilla", table[["D", "N"]], table.score)
    assert by_name.law == by_frame.law and by_name.status is Status.CONVERGED
    assert of_series.law.evaluate(table.train_flops) == pytest.approx(of_arrays.law.evaluate(table.train_flops.to_numpy()))
    assert fit_power_law(table.train_flops, table.score.astype("Float64"), table.run.astype("category")).law.alpha == pytest.approx(of_arrays.law.alpha)


def test_other_analyses_take_columns_too(table):
    cells = table.N.astype(str) + "-" + table.D.astype(str)
    assert pearson_log_x(table.train_flops, table.score).value == pearson_log_x(list(table.train_flops), list(table.score)).value
    assert pooled_noise(table.score, cells).sigma == pooled_noise(table.score.to_numpy(), cells.to_numpy()).sigma
    assert frontier(table.train_flops, table.score, cells).sentence == frontier(*(c.to_numpy() for c in (table.train_flops, table.score, cells))).sentence
    runs, same = Runs(table.train_flops, table.score, table.N), Runs(*(c.to_numpy() for c in (table.train_flops, table.score, table.N)))
    assert [curve.run for curve in runs.curves()] == [curve.run for curve in same.curves()] and (runs.cost == same.cost).all()
    assert approach2(table.N, table.D, table.score).k == 6.0


@pytest.mark.parametrize("wrong", [np.nan, -1.0, 0.0])
def test_weights_that_mean_nothing_are_one_line(table, wrong):
    with pytest.raises(UserError, match=f"weights is {wrong:g} at index 3; it must be above 0"):
        fit("power_law", table.train_flops, table.score, weights=np.where(np.arange(len(table)) == 3, wrong, 1.0))


def test_numbers_written_as_text_are_numbers(table):
    assert fit("power_law", table.train_flops.astype(str), table.score.astype(str)).law == fit("power_law", table.train_flops, table.score).law


@pytest.mark.parametrize("change, message", [
    (lambda t: (t.train_flops, t.score.sort_index(), None), r"x and y are series with different labels \(.* at index 0\): take both from one table"),
    (lambda t: (t.train_flops, t.score.reset_index(drop=True), None), "different labels"),
    (lambda t: (t.train_flops, t.score.to_numpy(), t.run.sort_index()), "x and groups are series with different labels"),
    (lambda t: (t.train_flops, t.score.astype(object).mask(t.score > 6, "n/a"), None), "y must be numbers: 'n/a' at index .* is not"),
    (lambda t: (t.run, t.score, None), "x must be numbers: '.*' at index 0 is not"),
    (lambda t: ("train_flops", t.score, None), "x must be numbers: got 'train_flops'"),
    (lambda t: (t.train_flops, t.score[:5], None), "points must be flat and of equal length"),
    (lambda t: (t.train_flops, 3.0, None), "points must be flat and of equal length"),
    (lambda t: (t.train_flops, t.score, t.run.where(t.N > 1e6)), "groups has no value at index"),
    (lambda t: (t, t.score, None), "the form power_law takes x; got N, D"),
])
def test_what_means_nothing_is_one_line(table, change, message):
    x, y, groups = change(table)
    with pytest.raises(UserError, match=message) as caught:
        fit("power_law", x, y, groups)
    assert "\n" not in str(caught.value)


def test_a_missing_value_is_named_with_its_run(table):
    broken = fit("power_law", table.train_flops, table.score.mask(table.score > 6), table.run)
    assert broken.status is Status.BAD_DATA and broken.law is None and "y = nan of run '" in broken.sentence
