"""Scaling laws and isoFLOP curves as figures: curve or reason, hold-out, optima, and hopeless data told in one line."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures import isoflop, scaling_law, style
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.status import Status
from ditscale.scaling.vertex import vertex_interval

TRUE = Chinchilla(E=4.0, A=3e3, B=4e4, alpha=0.45, beta=0.55)


def options(**given):
    return SimpleNamespace(**{"form": "power_law", "x": "train_flops", "checkpoints": False, "extrapolate": 4.0, **given})


@pytest.fixture
def isoflop_study(study):
    """Three budgets of five sizes and two seeds on a known surface, 1 % of noise; the grids are centred."""
    one, rng, rows = study().iloc[0].to_dict(), np.random.default_rng(0), []
    for budget in (1e12, 4e12, 1.6e13):
        for size in float(TRUE.optimal_size(budget, 3.0)) * np.geomspace(1 / 3, 3, 5):
            for seed in range(2):
                images = round(budget / 3 / size)
                score = float(TRUE.evaluate({"N": size, "D": images})) * np.exp(0.01 * rng.standard_normal())
                rows.append({**one, "run_id": f"b{budget:.0e}-n{size:.0f}-s{seed}", "model": f"DiT-n{size:.0f}/2", "macs": size / 2,
                             "seed": seed, "images_seen": images, "train_flops": 3 * size * images, "score": score, "final": True})
    return pd.DataFrame(rows)


def lines(drawing, dashed: bool) -> list:
    """Curves of the first axes: solid or dashed, without markers."""
    return [line for line in drawing.figure.axes[0].get_lines() if len(line.get_xdata()) > 2 and (line.get_linestyle() != "-") == dashed]


def test_curve_band_hold_out_and_card(study, tmp_path):
    table = study(seeds=(0, 1, 2), noise=0.03)
    drawing = scaling_law.draw(table, options(form="power_law_floor"))
    (solid,), (beyond,) = lines(drawing, False), lines(drawing, True)
    assert solid.get_xdata().max() <= table["train_flops"].max() * 1.001
    assert beyond.get_xdata().max() == pytest.approx(4 * table["train_flops"].max())
    assert len(drawing.figure.axes[0].collections) == 1 and drawing.points["held_out"].sum() == 3
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    error = drawing.card["hold_out_of_largest_x"]["rms_relative_error"]
    assert f"held out: rms {style.percent(error)}" in legend
    far = scaling_law.draw(table, options(extrapolate=10.0))
    assert lines(far, True)[0].get_xdata().max() == pytest.approx(10 * table["train_flops"].max())
    assert "farther than these points can tell" in far.caption
    paths = style.save(drawing, tmp_path)
    assert json.loads(paths[-1].read_text())["interval"]["method"] == "profile likelihood, F form"
    with pytest.raises(UserError, match="--extrapolate 0.5"):
        scaling_law.draw(table, options(extrapolate=0.5))


def test_a_law_that_its_runs_ends_contradict_ends_with_the_data(study):
    one, rows = study().iloc[0].to_dict(), []
    for run, end in enumerate(np.geomspace(0.2, 1.0, 5)):
        for x in end * np.linspace(0.1, 1.0, 10):
            rows.append({**one, "run_id": f"run-{run}", "images_seen": round(1e6 * x), "train_flops": 1e12 * x, "final": x == end,
                         "score": 10.0 * (0.5 + 0.5 * x**-0.6) * (1.0 + 0.002 * run)})
    drawing = scaling_law.draw(pd.DataFrame(rows), options(checkpoints=True))
    assert drawing.card["status"] == "FAILS_IN_TIME" and drawing.card["hold_out_in_time"]["failed"]
    (solid,) = lines(drawing, False)
    assert not lines(drawing, True) and solid.get_xdata().max() <= 1.001e12
    assert "The curve ends with the data." in drawing.caption and "misses their ends" in drawing.caption


def test_against_macs_and_of_several_variables(study, isoflop_study):
    assert "MMACs" in scaling_law.draw(study(), options(x="macs")).figure.axes[0].get_xlabel()
    drawing = scaling_law.draw(isoflop_study, options(form="chinchilla"))
    assert len(lines(drawing, False)) == len(lines(drawing, True)) == 3
    assert drawing.card["coefficients"]["alpha"]["value"] == pytest.approx(TRUE.alpha, abs=0.15)


@pytest.mark.parametrize("status, form, change", [
    (Status.TOO_FEW_POINTS, "power_law", lambda rows: rows[rows["model"].isin(["DiT-nano/2", "DiT-pico/4"])]),
    (Status.ONE_RUN, "power_law", lambda rows: rows[rows["run_id"] == rows["run_id"].iloc[0]]),
    (Status.TOO_FEW_POINTS, "chinchilla", lambda rows: rows),                              # all runs saw equally many images
    (Status.ONE_LINE, "chinchilla", lambda rows: rows.assign(
        images_seen=(rows["macs"] / 10).round(), train_flops=6 * rows["macs"] * (rows["macs"] / 10).round())),
    (Status.LACK_OF_FIT, "power_law", lambda rows: rows.assign(
        score=5 + 200 * np.exp(-np.log(rows["train_flops"] / 1e12) ** 2) + 0.01 * rows["seed"])),
])
def test_hopeless_data_have_no_curve_and_the_reason(study, status, form, change):
    drawing = scaling_law.draw(change(study(seeds=(0, 1, 2), noise=0.02)), options(form=form))
    assert drawing.card["status"] == status.name
    assert not lines(drawing, False) and not lines(drawing, True) and not drawing.figure.axes[0].collections
    assert f"No curve is drawn: {status.sentence}" in drawing.caption
    title = drawing.figure.axes[0].get_title(loc="left").replace("\n", " ")
    assert title.startswith(f"No curve: {status.sentence}") and drawing.points["law"].isna().all()


def test_one_seed_says_what_it_cannot_test(study):
    assert "Lack of fit was not tested: no x was run with two seeds." in scaling_law.draw(study(), options()).caption


def test_nan_is_named_and_mixtures_are_one_line(study, tmp_path, capsys):
    table = study(seeds=(0, 1))
    table.loc[table["model"] == "DiT-atto/8", "score"] = np.nan
    assert "8 evaluations of digits-atto-8-s0-0badcafe" in scaling_law.draw(table, options()).caption
    path = tmp_path / "mixed.csv"
    table.assign(passport=np.where(table["seed"] == 0, "a1", "b2")).to_csv(path, index=False)
    for script in (scaling_law, isoflop):
        assert script.main([str(path), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert "mixes passport" in error and error.count("\n") == 1
    with pytest.raises(UserError, match="no score of fd_digits_cnn is a positive number"):
        scaling_law.draw(table.assign(score=np.nan), options())


def test_isoflop_finds_budgets_and_both_optima(isoflop_study, tmp_path):
    isoflop_study["train_flops"] *= 1 + 0.004 * np.arange(len(isoflop_study)) / len(isoflop_study)      # met to a step of training
    drawing = isoflop.draw(isoflop_study)
    budgets, optima = drawing.card["approach_2"]["budgets"], drawing.card["approach_3"]["optima"]
    assert len(budgets) == 3 and all(one["inside_the_grid"] and one["warning"] is None for one in budgets)
    for one, surface in zip(budgets, optima):
        truth = float(TRUE.optimal_size(one["compute"], 3.0))
        assert one["optimum"] == pytest.approx(truth, rel=0.1) and surface["optimum"] == pytest.approx(truth, rel=0.1)
        assert one["low"] < one["optimum"] < one["high"] and surface["low"] < surface["optimum"] < surface["high"]
    assert drawing.card["approach_2"]["exponent"] == pytest.approx(TRUE.a, abs=0.05)
    assert "within 5 % of each other's FLOPs are one budget" in drawing.caption and "3 of 3 budgets have their optimum inside" in drawing.caption
    assert [path.suffix for path in style.save(drawing, tmp_path)] == [".png", ".svg", ".csv", ".txt", ".json"]


def test_isoflop_says_what_is_missing(study, isoflop_study):
    with pytest.raises(UserError, match="0 budgets of training FLOPs with 3 sizes or more, and 2 are needed; .*1 size"):
        isoflop.draw(study())
    one = isoflop_study[isoflop_study["train_flops"] < 2e12]
    with pytest.raises(UserError, match="1 budget of training FLOPs with 3 sizes or more"):
        isoflop.draw(one)
    small = isoflop_study[isoflop_study["macs"] * 2 < 1.1 * isoflop_study.groupby(
        isoflop_study["train_flops"].round(-11))["macs"].transform("median") * 2]          # the larger half of each grid is gone
    drawing = isoflop.draw(small)
    assert "0 of 3 budgets have their optimum inside the grid" in drawing.caption and "4 are needed for a parabola" in drawing.caption


def test_a_vertex_interval_covers():
    rng, hits = np.random.default_rng(0), 0
    log_n = np.repeat(np.linspace(-1.1, 1.1, 5), 2)
    for _ in range(400):
        found = vertex_interval(np.exp(log_n), 3.0 + 0.5 * (log_n - 0.2) ** 2 + 0.05 * rng.standard_normal(10))
        hits += found is None or np.exp(0.2) in found
    assert 0.92 <= hits / 400 <= 0.98
    assert vertex_interval([1, 2, 3], [2.0, 1.0, 2.0]) is None                              # no freedom left
    assert vertex_interval([1, 2, 4, 8], [1.0, 2.1, 2.9, 4.0]) is None                       # not bent


def epoch_csv(shared, tmp_path):
    """Epoch's 240 points as a CSV of N, D and score."""
    source = shared.parent / "scaling_data" / "epoch_chinchilla_svg_extracted.csv"
    if not source.is_file():
        pytest.skip(f"{source} is not there; set DITSCALE_SHARED to the folder above scaling_data/")
    points = pd.read_csv(source).sort_values("loss").iloc[:-5]
    path = tmp_path / "epoch.csv"
    pd.DataFrame({"N": points["Model Size"], "D": points["Training FLOP"] / 6 / points["Model Size"], "score": points["loss"]}).to_csv(path)
    return path


def test_epochs_points_are_drawn_from_a_csv(shared, tmp_path):
    path = epoch_csv(shared, tmp_path)
    assert isoflop.main([str(path), "--out", str(tmp_path)]) == 0
    card = json.loads((tmp_path / "isoflop.json").read_text())
    assert card["k"] == 6 and 0.45 < card["approach_2"]["exponent"] < 0.55


@pytest.mark.slow
def test_epochs_surface_is_drawn_from_a_csv(shared, tmp_path):
    path = epoch_csv(shared, tmp_path)
    assert scaling_law.main([str(path), "--out", str(tmp_path), "--form", "chinchilla"]) == 0
    assert json.loads((tmp_path / "scaling_law.json").read_text())["n_points"] == 240
