"""Studies whose models have several training lengths: branches of one trunk, ladders of budgets. Models are compared at equal images."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ditscale.figures.kit import law_points, one_length, study_table
from ditscale.figures.plots import branches, bubbles, frontier, gflops, metrics, power_law, samples, sampling_compute
from ditscale.report import pictures, report, verdicts
from ditscale.studies.table.study import Study

MODELS = ("DiT-atto/2", "DiT-femto/2", "DiT-pico/2")
LENGTHS = (1280, 2560, 5120)


def score(place: int, images: int, seed: int) -> float:
    """Falls with images, faster for a larger model; at few images the larger model is worse, as in ``sweeps/digits_budgets.yaml``."""
    return 100.0 * (1.5 ** place) * (images / 1280) ** (-0.6 * (1 + place)) * (1 + 0.01 * seed)


@pytest.fixture
def trunks(study):
    """Per model and seed a trunk of 5120 images, also scored at 2560, and branches that end at 1280 and 2560."""
    rows = []
    for place, model in enumerate(MODELS):
        row = study().query(f"model == '{model}'").iloc[0].to_dict()
        for seed in range(3):
            trunk = f"{model[4:-2]}-s{seed}-trunk"
            common = {**row, "seed": seed, "trunk": trunk}
            rows.append({**common, "run_id": trunk, "branch_images": 0, "images_seen": 2560, "final": False, "recipe": f"{place}5120",
                         "score": 1.3 * score(place, 2560, seed)})
            rows += [{**common, "run_id": trunk if images == 5120 else f"{model[4:-2]}-s{seed}-{images}", "images_seen": images, "final": True,
                      "branch_images": 0 if images == 5120 else images * 4 // 5, "recipe": f"{place}{images}", "score": score(place, images, seed)}
                     for images in LENGTHS]
    table = pd.DataFrame(rows)
    table["train_flops"] = 6.0 * table["macs"] * table["images_seen"]
    return table.assign(own_train_flops=table["train_flops"], own_train_seconds=table["train_seconds"],
                        accelerator_hours=table["train_seconds"] / 3600)


def headline(table: pd.DataFrame, out) -> tuple[str, str]:
    """The title and the whole page of the report."""
    page = report.write(table, "made-up", out)[-1].read_text()
    return re.search("<h1>(.*?)</h1>", page)[1], page


def test_models_are_compared_at_the_largest_number_of_images_that_all_have(trunks, tmp_path):
    drawing = gflops.draw(trunks)
    ends = trunks.query("images_seen == 5120")
    assert set(drawing.points["images_seen"]) == {5120} and len(drawing.points) == 9 and "at 5,120 images seen" in drawing.caption
    assert "each model is shown at 5,120 images, the largest number at which every model has a score" in drawing.caption
    assert gflops.correlation(trunks).value == pytest.approx(np.corrcoef(np.log(ends["macs"]), ends["score"])[0, 1])
    title, page = headline(trunks, tmp_path)
    assert title == "fd_digits_cnn falls from 44.0 to 18.7 at 5,120 images as model compute grows 13 times"
    assert "the score at 5,120 images goes from 44.0 to 18.7" in page and "over 9 runs at 5,120 images" in page


def test_a_model_without_its_end_there_is_shown_on_the_way(trunks):
    shorter = trunks[~((trunks["model"] == MODELS[0]) & (trunks["images_seen"] == 5120))].copy()
    rows, words = one_length.at_one_count(study_table.scored(shorter)[0])
    assert set(rows["images_seen"]) == {2560} and rows["final"].all() and "on the way" not in words       # of trunks none: each model ends there
    branch = (shorter["model"] == MODELS[2]) & (shorter["images_seen"] == 2560) & shorter["final"]
    rows, words = one_length.at_one_count(study_table.scored(shorter[~branch])[0])
    assert set(rows["images_seen"]) == {2560} and sorted(rows.loc[~rows["final"], "run_id"]) == [f"pico-s{seed}-trunk" for seed in range(3)]
    assert words.endswith("every model has a score; pico/2 on the way to a longer run.")
    assert set(bubbles.draw(shorter[~branch]).points["seeds"]) == {3}


def test_without_a_common_number_each_model_is_shown_at_its_longest(trunks):
    """Budgets of training FLOPs: each model has its own lengths."""
    ends = trunks[trunks["final"]].copy()
    ends["images_seen"] += ends["model"].map(dict(zip(MODELS, (2, 1, 0))))
    drawing = gflops.draw(ends)
    assert sorted(set(drawing.points["images_seen"])) == [5120, 5121, 5122] and len(drawing.points) == 9
    assert "1,280 to 5,122 images and models share no number of images: each is shown at the end of its longest runs" in drawing.caption
    assert power_law.fit_law(ends, "macs").fit.n_runs == 9


def test_one_length_per_model_is_shown_as_before(study):
    rows, words = one_length.at_one_count(study_table.scored(study())[0])
    assert words == "" and rows["final"].all() and not one_length.has_several(rows)


def test_a_trunk_is_no_outlier_of_its_own_branches(trunks, tmp_path):
    law = power_law.fit_law(trunks, "macs")
    assert law.fit.outliers.runs == () and law.fit.n_points == law.fit.n_runs == 9
    ends = trunks.query("images_seen == 5120")
    slope, _ = np.polyfit(np.log(ends["macs"]), np.log(ends["score"]), 1)
    assert law.law.alpha == pytest.approx(-slope)
    far = trunks.copy()
    far.loc[(far["run_id"] == "femto-s1-trunk") & far["final"], "score"] *= 3
    one, = power_law.fit_law(far, "macs").fit.outliers.found
    assert one.run == "femto-s1-trunk" and one.median == pytest.approx(score(1, 5120, 2), rel=0.03)      # of the other seeds at 5120 images


def test_the_cards_name_a_trunk_once(trunks, tmp_path):
    path, = power_law.write(power_law.fit_laws(trunks), tmp_path)
    for name, card in json.loads(path.read_text()).items():
        assert card["runs"] == sorted(trunks["trunk"].unique()) and card["n_points"] == (9 if name == "score_vs_macs" else 27)
        assert ("all of a model at one length" in card["kept"]) == (name == "score_vs_macs")


@pytest.fixture
def sheet(tmp_path):
    """The path of a sheet with one image."""
    np.savez(tmp_path / "sheet.npz", np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, int))
    return str(tmp_path / "sheet.npz")


def test_samples_are_of_one_length_or_of_each_longest_run(trunks, sheet, study):
    drawing = samples.draw(trunks.assign(sample_sheet=np.where(trunks["final"], sheet, "")))
    assert drawing.points["run_id"].tolist() == ["atto-s0-trunk", "femto-s0-trunk", "pico-s0-trunk"]
    assert drawing.points["score"].tolist() == [score(place, 5120, 0) for place in range(3)]
    assert "is fd_digits_cnn at 5,120 images, as are the samples, lower is better" in drawing.caption
    longer = (trunks["model"] == MODELS[2]) & (trunks["images_seen"] == 5120)
    apart = trunks.assign(images_seen=trunks["images_seen"].mask(longer, 10240), sample_sheet=np.where(trunks["final"], sheet, ""))
    assert "at 2,560 images" in samples.draw(apart).caption                      # where every model has the end of a branch
    trunk_only = apart.assign(sample_sheet=np.where(apart["final"] & (apart["branch_images"] == 0), sheet, ""))
    drawing = samples.draw(trunk_only)
    assert "at the end of each model's longest runs" in drawing.caption and drawing.points["has_sheet"].all()
    assert "the model's final fd_digits_cnn" in samples.draw(study().assign(sample_sheet=sheet)).caption


def test_the_report_has_the_branches_and_says_which_are_not_compared(trunks, study, tmp_path):
    """The trunk has no score at 1280; there is one at 2560."""
    drawing = branches.draw(trunks)
    caption = drawing.caption
    assert len(drawing.figure.axes[0].collections[0].get_offsets()) == 18 and len(drawing.points) == 9      # all ends are drawn
    assert "geometric mean over a model's 3 trunks with Student's" in caption
    assert "Not compared, as the trunk has no fd_digits_cnn there before its own decay: 9 branches at 1,280 images." in caption
    more = trunks[(trunks["run_id"] == "pico-s0-trunk") & ~trunks["final"]].assign(images_seen=1280)
    caption = branches.draw(pd.concat([trunks, more], ignore_index=True)).caption
    assert "geometric mean over a model's 1 to 3 trunks" in caption and "8 branches at 1,280 images" in caption
    _, page = headline(trunks, tmp_path)
    assert "<h2>Branches against their trunks</h2>" in page and (tmp_path / "branches.png").is_file() and "8 branches" not in page
    assert "Branches against" not in headline(study(), tmp_path)[1]


def test_cells_are_named_by_branch_and_trunk_not_by_a_hash(trunks):
    """At 2560 images there are a branch's end and its trunk on the way; elsewhere the images name the cell."""
    study = Study(Path(), trunks)
    names = [cell.name for cell in study.frontier().cells]
    assert sorted(name for name in names if name.startswith("atto/2")) == [
        "atto/2 baseline 1,280", "atto/2 baseline 2,560 branch", "atto/2 baseline 2,560 trunk", "atto/2 baseline 5,120"]
    by_name = study.frontier().by_name
    assert frontier.short_name(by_name["atto/2 baseline 2,560 trunk"]) == "atto/2 baseline, 2.56 k, trunk"
    assert frontier.short_name(by_name["atto/2 baseline 5,120"]) == "atto/2 baseline, 5.12 k"
    far = trunks.copy()
    far.loc[(far["run_id"] == "femto-s1-trunk") & ~far["final"], "score"] *= 3
    assert "in femto/2 baseline 2,560 trunk, " in Study(Path(), far).noise().outliers.sentence
    two = trunks.assign(recipe=trunks["recipe"].where(trunks["seed"] > 0, trunks["recipe"] + "x"))      # another rate, say
    assert {"atto/2 baseline 5,120 trunk 05120", "atto/2 baseline 5,120 trunk 05120x"} <= {cell.name for cell in Study(Path(), two).frontier().cells}


def test_a_frontier_without_outliers_says_what_it_cannot_show(trunks):
    """One point of each of atto's three trunks is far from the other two: without them no run of atto is left."""
    far = trunks.copy()
    for seed, images in enumerate(LENGTHS):
        far.loc[(far["model"] == MODELS[0]) & (far["seed"] == seed) & (far["images_seen"] == images) & far["final"], "score"] *= 2
    found = Study(Path(), far).frontier()
    assert sorted(found.noise.outliers.runs) == [f"atto-s{seed}-trunk" for seed in range(3)] and len(found.without.cells) == len(found.cells) - 4 == 8
    lost = "(and so without 4 cells with no other run: atto/2 baseline 1,280; atto/2 baseline 2,560 branch; atto/2 baseline 2,560 trunk and 1 more)"
    assert lost in found.sentence
    for said in (frontier.draw(far, pictures.OPTIONS).caption, dict(verdicts.read(far).rows)["Frontier"][0][1]):
        assert lost in said and " Without them no run of atto/2 is left." in said
    one = trunks.copy()
    one.loc[(one["run_id"] == "atto-s0-trunk") & one["final"], "score"] *= 2
    found = Study(Path(), one).frontier()
    assert found.noise.outliers.runs == ("atto-s0-trunk",) and found.lost == "" and "Without it: " in found.sentence


def test_other_figures_against_the_models_compute_take_one_length_too(trunks, made):
    drawing = metrics.draw(made.metrics(trunks))
    assert "after 5,120 images, against the model's forward compute" in drawing.caption and "over 9 runs" in drawing.caption
    assert "the largest number at which every model has a score" in drawing.caption
    steps = pd.concat([made.passport(trunks, sampling_steps=n, nfe=2 * n) for n in (4, 8)], ignore_index=True)
    drawing = sampling_compute.draw(steps)
    assert set(drawing.points["images_seen"]) == {5120} and len(drawing.points) == 18 and "at 5,120 images against sampling compute" in drawing.caption
    points = law_points.choose(trunks, at_one_length=True)
    assert set(points.rows["D"]) == {5120.0} and points.context["kept"].startswith("one evaluation of each trunk or run, all of a model at one length. Runs")
