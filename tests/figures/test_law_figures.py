"""Scaling laws and isoFLOP curves as figures: curve or reason, hold-out, optima, and hopeless data told in one line."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.errors import UserError
from ditscale.figures.kit import law_points, style
from ditscale.figures.plots import isoflop, scaling_law
from ditscale.scaling.approaches import vertex_interval
from ditscale.scaling.deployment import deployed_optimum
from ditscale.scaling.laws import Chinchilla, RepeatedData
from ditscale.scaling.spending import Spending
from ditscale.scaling.status import Status

TRUE = Chinchilla(E=4.0, A=3e3, B=4e4, alpha=0.45, beta=0.55)


def options(**given):
    return SimpleNamespace(**{"form": "power_law", "x": "train_flops", "checkpoints": False, "extrapolate": 4.0, "pin": (), **given})


@pytest.fixture
def isoflop_study(study):
    """Three budgets of five sizes and two seeds on a known surface, 1 % of noise; the grids are centered."""
    one, rng, rows = study().iloc[0].to_dict(), np.random.default_rng(0), []
    for budget in (1e12, 4e12, 1.6e13):
        for size in float(TRUE.optimal_size(budget, 3.0)) * np.geomspace(1 / 3, 3, 5):
            for seed in range(2):
                images = round(budget / 3 / size)
                score = float(TRUE.evaluate({"N": size, "D": images})) * np.exp(0.01 * rng.standard_normal())
                rows.append({**one, "run_id": f"b{budget:.0e}-n{size:.0f}-s{seed}", "model": f"DiT-n{size:.0f}/2", "macs": size / 2,
                             "seed": seed, "images_seen": images, "train_flops": 3 * size * images, "score": score, "final": True,
                             "evaluation_flops": 2000 * 50 * size})
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
    assert "farther than these points support" in far.caption
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
    assert "The curve ends at the limits of the data." in drawing.caption and "misses their ends" in drawing.caption


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
    assert "Lack of fit was not tested: no x has two seeds." in scaling_law.draw(study(), options()).caption


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
    assert "runs with FLOPs within 5 % of each other are one budget" in drawing.caption and "3 of 3 budgets have their optimum inside" in drawing.caption
    assert [path.suffix for path in style.save(drawing, tmp_path)] == [".png", ".svg", ".csv", ".txt", ".json"]


def test_isoflop_says_what_is_missing(study, isoflop_study):
    with pytest.raises(UserError, match="0 budgets of training FLOPs with 3 sizes or more; 2 are needed; .*1 size"):
        isoflop.draw(study())
    one = isoflop_study[isoflop_study["train_flops"] < 2e12]
    with pytest.raises(UserError, match="1 budget of training FLOPs with 3 sizes or more"):
        isoflop.draw(one)
    small = isoflop_study[isoflop_study["macs"] * 2 < 1.1 * isoflop_study.groupby(
        isoflop_study["train_flops"].round(-11))["macs"].transform("median") * 2]          # the larger half of each grid is gone
    drawing = isoflop.draw(small)
    assert "0 of 3 budgets have their optimum inside the grid" in drawing.caption and "a curve needs 4" in drawing.caption


@pytest.fixture
def own_compute_csv(tmp_path):
    """Three budgets of six sizes whose compute is 30 N^0.8 D, met to 4 %, and two sizes at a fourth; columns N, D, score, train_flops."""
    rule, rng, rows = Spending(30.0, 0.8, 1.0), np.random.default_rng(0), []
    for budget, sizes in ((1e12, 6), (4e12, 6), (1.6e13, 6), (6.4e13, 2)):
        for size in float(rule.optimal_size(TRUE, budget)) * np.geomspace(1 / 3, 3, sizes):
            data = rule.data(size, budget * rng.uniform(0.96, 1.04))
            rows.append({"N": size, "D": data, "score": float(TRUE.evaluate({"N": size, "D": data})) * np.exp(0.002 * rng.standard_normal()),
                         "train_flops": rule.compute(size, data), "budget": budget})
    path = tmp_path / "own.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def run_isoflop(path, out, *arguments) -> tuple[dict, str, pd.DataFrame]:
    assert isoflop.main([str(path), "--out", str(out), "--format", "svg", *arguments]) == 0
    return json.loads((out / "isoflop.json").read_text()), (out / "isoflop.txt").read_text(), pd.read_csv(out / "isoflop.csv")


def test_a_csvs_own_compute_and_budgets_are_taken(own_compute_csv, tmp_path):
    card, caption, points = run_isoflop(own_compute_csv, tmp_path / "column")
    truth = Spending(30.0, 0.8, 1.0).exponent(TRUE)
    for approach in ("approach_2", "akima", "approach_3"):
        assert card[approach]["exponent"] == pytest.approx(truth, abs=0.06), approach
    assert [one["compute"] for one in card["approach_2"]["budgets"]] == [1e12, 4e12, 1.6e13]
    assert "C as given, near 30 N^0.800 D^1.000" in caption and "budgets are read from the column budget" in caption
    assert "In no curve, but in the surface's fit: 2 rows (2 rows near 6.40 × 10¹³ FLOPs, 2 sizes only)" in caption
    assert [(one["rows"], one["sizes"]) for one in card["dropped"]] == [(2, 2)]
    assert len(points) == 20 and (points["left_out"] == "fewer than 3 sizes").sum() == 2
    stated = run_isoflop(own_compute_csv, tmp_path / "stated", "--budgets", "1e12,4e12,16e12")
    assert stated[0]["approach_2"]["exponent"] == card["approach_2"]["exponent"]
    assert stated[0]["dropped"][0]["why"] == "more than 10 % from every stated budget" and "each run goes to the nearest stated budget" in stated[1]
    plain = pd.read_csv(own_compute_csv).drop(columns="budget")
    plain.to_csv(own_compute_csv, index=False)
    wide = run_isoflop(own_compute_csv, tmp_path / "wide", "--width", "10")
    assert wide[0]["approach_2"]["exponent"] == pytest.approx(card["approach_2"]["exponent"], abs=0.01)
    assert all(one["largest_compute_over_smallest"] < 1.1 for one in wide[0]["approach_2"]["budgets"])


def test_akima_is_drawn_where_asked_for(own_compute_csv, tmp_path):
    card, caption, _ = run_isoflop(own_compute_csv, tmp_path, "--curve", "akima")
    assert card["curve_drawn"] == "akima" and card["akima"]["budgets"][0]["low"] is None
    assert "Akima's curve of ln score in ln N" in caption and "1.3 %" in caption and "Fieller" not in caption
    drawing = isoflop.draw(law_points.read(own_compute_csv), SimpleNamespace(**{**vars(isoflop.PLAIN), "curve": "akima"}))
    (curve, *_), points = lines(drawing, False), drawing.points[drawing.points["budget"] == 1e12]
    ends = points.sort_values("N")["score"].iloc[[0, -1]].to_numpy()
    assert curve.get_ydata()[[0, -1]] == pytest.approx(ends, rel=1e-6)          # through the points, not near them


def test_compute_that_no_rule_describes_gives_no_optimum_of_the_surface(own_compute_csv, tmp_path):
    rows = pd.read_csv(own_compute_csv)
    rows.assign(train_flops=rows["train_flops"] * np.resize([1.0, 1.6], len(rows))).to_csv(own_compute_csv, index=False)
    card, caption, _ = run_isoflop(own_compute_csv, tmp_path)
    assert not card["approach_3"]["optima"] and card["approach_3"]["exponent"] is None and "No optimum of the surface is reported" in caption
    assert "its runs' FLOPs differ by" in caption


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


def test_a_budget_that_is_no_number_is_one_line(own_compute_csv, tmp_path):
    done = CliRunner().invoke(main, ["figure", "isoflop", str(own_compute_csv), "--budgets", "1e12,abc"])
    assert done.exit_code == 2 and "'1e12,abc' is not a list of FLOPs; give numbers, for example 1e18,3e18" in done.output


def test_isoflop_with_images_to_make_has_smaller_optima(isoflop_study, tmp_path):
    asked = SimpleNamespace(**{**vars(isoflop.PLAIN), "images_to_make": 5e5})
    drawing = isoflop.draw(isoflop_study, asked)
    with_sampling, alone = drawing.card["with_sampling"], drawing.card["approach_3"]["optima"]
    law = Chinchilla(**{name: one["value"] for name, one in drawing.card["approach_3"]["coefficients"].items()})
    assert with_sampling["forward_passes"] == pytest.approx(5e5 * 50)                 # NFE 50 without guidance; N is one forward pass
    for one, training in zip(with_sampling["optima"], alone):
        size, data = deployed_optimum(law, one["compute"], 5e5 * 50)
        assert (one["size"], one["data"]) == (pytest.approx(float(size)), pytest.approx(float(data)))
        assert one["size"] < training["optimum"] and one["size_interval"]["low"] < one["size"] < one["size_interval"]["high"]
    assert "if the budget also pays for making 500,000 images (2.5e+07 forward passes; evaluations made 2,000 per run" in drawing.caption
    assert "with_sampling" not in isoflop.draw(isoflop_study).card and "do not support it" not in drawing.caption
    far = isoflop.draw(isoflop_study, SimpleNamespace(**{**vars(asked), "images_to_make": 5e7}))
    assert far.card["with_sampling"]["times_outside_the_points"] > 4 and "times outside the points: they do not support it" in far.caption
    style.save(drawing, tmp_path, ("png",))


def test_isoflop_says_why_images_cannot_be_added(isoflop_study, own_compute_csv, tmp_path):
    def asked(**given):
        return SimpleNamespace(**{**vars(isoflop.PLAIN), **given})
    uneven = isoflop_study.assign(nfe=np.resize([50, 100], len(isoflop_study)), evaluation_flops=np.nan)
    for table, given, words in ((isoflop_study, {"forwards": 10.0}, "give both"), (isoflop_study, {"images_to_make": -1.0}, "0 or more"),
                                (uneven, {"images_to_make": 5.0}, "there is no one optimum"),
                                (law_points.read(own_compute_csv), {"images_to_make": 5.0, "forwards": 2.0}, "needs a compute of k N D"),
                                (isoflop_study, {"images_to_make": 5.0, "forwards": 0.0}, "--forwards 0")):
        with pytest.raises(UserError, match=words):
            isoflop.draw(table, asked(**given))
    plain = pd.read_csv(own_compute_csv).drop(columns=["train_flops", "budget"])
    with pytest.raises(UserError, match="does not say how many forward passes"):
        isoflop.draw(plain.assign(budget=pd.read_csv(own_compute_csv)["budget"]), asked(images_to_make=5.0))
    stated = isoflop.draw(uneven, asked(images_to_make=5000.0, forwards=50.0))
    assert stated.card["with_sampling"]["forward_passes"] == pytest.approx(5000 * 50)


@pytest.fixture
def epochs_study(study):
    """Four sizes at six lengths and two seeds on 100,000 unique images, up to 40 epochs, with R* = 8 and 0.5 % of noise."""
    true = RepeatedData(E=4.0, A=3e3, B=4e3, alpha=0.45, beta=0.40, R_star=8.0)
    one, rng, rows = study().iloc[0].to_dict(), np.random.default_rng(0), []
    for size in (100_000, 500_000, 2_000_000, 10_000_000):
        for epochs in (0.5, 1, 3, 8, 20, 40):
            for seed in range(2):
                images = round(1e5 * epochs)
                score = float(true.evaluate({"N": size, "D": images, "U": 1e5})) * np.exp(0.005 * rng.standard_normal())
                rows.append({**one, "run_id": f"n{size:.0f}-e{epochs}-s{seed}", "model": f"DiT-n{size:.0f}/2", "macs": size / 2, "seed": seed,
                             "images_seen": images, "train_flops": 3 * size * images, "score": score, "final": True, "unique_images": 100_000})
    return pd.DataFrame(rows)


def test_repeated_data_is_a_form_with_its_comparison(epochs_study, tmp_path):
    drawing = scaling_law.draw(epochs_study, options(form="repeated"))
    found = drawing.card["coefficients"]["R_star"]
    assert found["low"] < 8.0 < found["high"] and drawing.card["against_no_repetition"]["p"] < 1e-6 and drawing.card["epochs"] == [0.5, 40.0]
    assert "the points need it. Lack of fit without R_star: p = " in drawing.caption and len(lines(drawing, False)) == 4
    pinned = scaling_law.draw(epochs_study, options(form="repeated", pin=("R_star=8",)))
    assert pinned.card["coefficients"]["R_star"] == {"value": 8.0, "low": None, "high": None} and "R_star = 8 pinned" in pinned.caption
    style.save(drawing, tmp_path, ("png",))
    with pytest.raises(UserError, match="needs the number of unique images: a column unique_images or U"):
        scaling_law.draw(epochs_study.drop(columns="unique_images"), options(form="repeated"))
    with pytest.raises(UserError, match="unique_images is not known for run 'n100000-e0.5-s0'"):
        scaling_law.draw(epochs_study.assign(unique_images=np.nan), options(form="repeated"))
    with pytest.raises(UserError, match="give NAME=X"):
        scaling_law.draw(epochs_study, options(form="repeated", pin=("R_star",)))


def test_a_csv_of_unique_amounts(epochs_study, tmp_path):
    plain = pd.DataFrame({"N": 2 * epochs_study["macs"], "D": epochs_study["images_seen"], "U": 100_000, "score": epochs_study["score"]})
    plain.to_csv(tmp_path / "own.csv", index=False)
    assert scaling_law.main([str(tmp_path / "own.csv"), "--form", "repeated", "--out", str(tmp_path / "out"), "--format", "png"]) == 0
    card = json.loads((tmp_path / "out" / "scaling_law.json").read_text())
    assert card["coefficients"]["R_star"]["value"] == pytest.approx(8.0, rel=0.1)
