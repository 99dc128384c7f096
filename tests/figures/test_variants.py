"""Variants side by side: numbers by hand, nothing extrapolated, verdicts no stronger than the seeds, the mixed report."""

import html
import io
import json
import re

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.kit import style, variant_table
from ditscale.figures.plots import variants
from ditscale.report import report, sources
from ditscale.scaling.differences import compare_scores

COST = {"baseline": 100, "masked": 50, "mdt": 200}      # training FLOPs per image
IMAGES = (1000, 2000, 4000)


def make_runs(scores: dict[str, list[float]], seed: int = 0, model: str = "DiT-pico/2") -> pd.DataFrame:
    """One run a variant, with these scores at ``IMAGES``."""
    rows = [{
        "run_id": f"{model.replace('/', '-')}-{variant}-s{seed}", "model": model, "size": "pico", "patch_size": 2,
        "variant": variant, "formulation": "flow", "seed": seed, "parameters": 10, "tokens": 16, "macs": 1e6,
        "train_flops_per_image": COST[variant], "images_seen": seen, "final": seen == IMAGES[-1],
        "train_flops": COST[variant] * seen, "metric": "fd_digits_cnn", "score": score, "floor": 1.0, "samples": 500,
        "guidance_scale": 1.0, "nfe": 8, "passport": "abc", "sample_seeds": 1, "passport_fields": "{}",
        "train_seconds": 1.0, "device": "cpu", "sample_sheet": "",
    } for variant, own in scores.items() for seen, score in zip(IMAGES, own)]
    return pd.DataFrame(rows)


def by_variant(table: pd.DataFrame) -> dict[str, variant_table.VariantComparison]:
    return {row.variant: row for row in variant_table.compare(table)}


def mixed_study(table: pd.DataFrame, variant: str, factor: float, cost: float) -> pd.DataFrame:
    """The table's two largest models at patch size 2 once more, as another variant of another cost and score."""
    own = table[table["model"].isin(["DiT-pico/2", "DiT-nano/2"])].copy()
    own["run_id"] = own["run_id"] + variant
    return own.assign(variant=variant, score=own["score"] * factor, train_flops=own["train_flops"] * cost)


@pytest.fixture
def mixed(table):
    return pd.concat([table, mixed_study(table, "masked", 1.1, 0.6), mixed_study(table, "mdt", 0.8, 1.8)],
                     ignore_index=True)


def test_equal_images_and_equal_flops_by_hand():
    """masked ends at 2e5 training FLOPs, where baseline and mdt have evaluations of their own."""
    found = by_variant(make_runs({"baseline": [80, 40, 20], "masked": [90, 60, 30], "mdt": [64, 32, 8]}))
    assert [row.images.at for row in found.values()] == [4000] * 3
    assert [row.flops.at for row in found.values()] == [200_000] * 3
    assert [row.flops_ratio for row in found.values()] == [1.0, 0.5, 2.0]
    assert [row.images.score for row in found.values()] == pytest.approx([20, 30, 8])
    assert [row.flops.score for row in found.values()] == pytest.approx([40, 30, 64])
    assert found["masked"].images.difference.change == pytest.approx(0.5)
    assert found["masked"].flops.difference.change == pytest.approx(-0.25)
    assert found["baseline"].images.difference is None


def test_between_evaluations_the_score_is_interpolated_in_logarithms():
    assert variant_table.score_at([100, 400], [64.0, 16.0], 200) == pytest.approx(32.0)
    assert np.isnan(variant_table.score_at([100, 400], [64.0, 16.0], 401))
    assert np.isnan(variant_table.score_at([100, 400], [64.0, 16.0], 99))


def test_nothing_is_extrapolated(monkeypatch, tmp_path):
    """mdt's first evaluation comes after all that masked ever spent."""
    monkeypatch.setitem(COST, "mdt", 300)
    table = make_runs({"baseline": [80, 40, 20], "masked": [90, 60, 30], "mdt": [64, 32, 8]})
    place = by_variant(table)["mdt"].flops
    assert (place.score, place.difference, place.seeds) == (None, None, 0)
    frame = pd.read_csv(io.StringIO(variants.draw(table).tables[variants.COMPARISON])).set_index("variant")
    assert frame.loc["mdt", "equal_flops_reason"] == "outside its range"
    assert np.isnan(frame.loc["mdt", "equal_flops_score"])
    page = report.write(table, "s", tmp_path)[-1].read_text()
    assert "<td class=number>outside its range</td>" in page and "outside its range on pico/2" in page


def test_counts_that_not_all_have_are_passed_over():
    table = make_runs({"baseline": [80, 40, 20], "masked": [90, 60, 30]})
    cut = table[(table["variant"] == "baseline") | (table["images_seen"] < 4000)]
    assert by_variant(cut)["masked"].images.at == 2000
    none_shared = table[(table["variant"] == "baseline") == (table["images_seen"] != 2000)]
    found = by_variant(none_shared)["masked"].images                          # the baseline between 80 and 20, at half the log of its images
    assert found.at == 2000 and found.score == pytest.approx(60) and found.difference.change == pytest.approx(60 / 40 - 1)


def test_verdicts_are_no_stronger_than_the_seeds():
    one, two = compare_scores([8.0], [10.0]), compare_scores([8.0, 8.1], [10.0, 10.1])
    assert (one.verdict, one.reason) == ("INCONCLUSIVE", "one seed gives no estimate of the noise")
    assert (two.verdict, two.reason) == ("INCONCLUSIVE", "2 seeds are too few for an interval")
    assert one.interval is None and two.interval is None and one.change == pytest.approx(-0.2)
    apart = compare_scores([8.0, 8.2, 7.9], [10.0, 10.3, 9.8])
    assert apart.verdict == "REAL" and apart.interval.high < 0 and apart.change in apart.interval
    over = compare_scores([8.0, 11.0, 9.5], [10.0, 9.0, 10.5])
    assert over.verdict == "INCONCLUSIVE" and 0.0 in over.interval


def test_the_interval_is_welchs():
    """Against scipy's own, on the logarithms."""
    from scipy import stats

    a, b = np.array([8.0, 8.2, 7.7, 9.0]), np.array([10.0, 12.0, 9.0])
    told = stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval(0.95)
    interval = compare_scores(a, b).interval
    assert (interval.low, interval.high) == pytest.approx((np.expm1(told.low), np.expm1(told.high)))


def test_three_seeds_of_each_reach_the_page(tmp_path):
    scores = [({"baseline": [80, 40, 20 * luck], "masked": [90, 60, 30 * luck]}, seed)
              for seed, luck in enumerate((1.0, 1.02, 0.97))]
    table = pd.concat([make_runs(own, seed) for own, seed in scores], ignore_index=True)
    found = by_variant(table)["masked"]
    assert found.images.seeds == 3 and found.images.difference.verdict == "REAL"
    page = report.write(table, "s", tmp_path)[-1].read_text()
    assert not re.findall(r"(?:fill|stroke): ?#[0-9a-f]{6}", page)        # each color follows the page's theme
    assert "<th class=number>95 % interval</th>" in page and "<td>REAL</td>" in page
    caption = (tmp_path / "variants.txt").read_text()
    assert "Welch" in caption and "One seed" not in caption


def test_a_diverged_run_is_named_with_the_difference_without_it(tmp_path):
    scores = [({"baseline": [80, 40, 20 * luck], "masked": [90, 60, 30 * luck * (3 if seed == 3 else 1)]}, seed)
              for seed, luck in enumerate((1.0, 1.02, 0.97, 1.01))]
    table = pd.concat([make_runs(own, seed) for own, seed in scores], ignore_index=True)
    found = by_variant(table)["masked"]
    [far] = found.outliers.runs
    assert found.images.difference.verdict == "INCONCLUSIVE" and found.images.without.verdict == "REAL"
    assert found.images.without.change == pytest.approx(0.5, rel=0.05) and not by_variant(table)["baseline"].outliers.found
    frame = pd.read_csv(io.StringIO(variants.draw(table).tables[variants.COMPARISON])).set_index("variant")
    assert frame.loc["masked", "outliers"] == far and frame.loc["masked", "equal_images_verdict_without_outliers"] == "REAL"
    assert f"Outlier: run '{far}'" in variants.draw(table).caption
    assert f"Outlier: run '{far}'" in html.unescape(report.write(table, "s", tmp_path)[-1].read_text())


def test_figure_shows_each_run_in_both_panels(mixed, tmp_path):
    drawing = variants.draw(mixed)
    left, right = drawing.figure.axes
    assert left.get_xlabel() == "Images seen" and right.get_xlabel() == "Training compute (FLOPs)"
    assert len(drawing.points) == 6 * 4 and set(drawing.points["model"]) == {"DiT-pico/2", "DiT-nano/2"}
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts() if text.get_text().strip()]
    assert set(legend) == {"baseline", "masked", "mdt", "pico/2", "nano/2", "compared here", "floor"}
    assert "One seed per variant: no difference here is distinguishable" in drawing.caption
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        paths = style.save(variants.draw(mixed), tmp_path / name)
    assert all(path.read_bytes() == (tmp_path / "first" / path.name).read_bytes() for path in paths)


def test_one_variant_alone_is_refused(table):
    with pytest.raises(UserError, match="no model has two variants; there are: baseline"):
        variants.draw(table)
    with pytest.raises(UserError, match="mixes passport"):
        variants.draw(table.assign(passport=["a"] * 20 + ["b"] * 28))


def test_mixed_study_gets_every_part(mixed, serve, tmp_path, capsys):
    folder = tmp_path / "study"
    run_id = mixed[mixed["variant"] == "masked"]["run_id"].iloc[0]
    (folder / run_id).mkdir(parents=True)
    lines = [{"images_seen": 1, "loss/generative": 1.5, "loss/reconstruction": 0.25, "lr": 1.0},
             {"images_seen": 2, "loss/generative": 0.5, "watch/teacher_entropy_cls": 0.75}]
    (folder / run_id / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status = {"state": "done", "images_seen": 2, "warning": "collapse <b>"}
    (folder / run_id / "status.json").write_text(json.dumps(status))
    serve(mixed)
    assert report.main([str(folder)]) == 0
    names = {line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines()}
    assert names >= {"variants.png", "variant_comparison.csv", "gflops.svg", "report.html"}
    page = (folder / "analysis" / "report.html").read_text()
    order = [page.index(f"<h2>{heading}</h2>") for heading in ("Score against training compute", "Variants", "Samples")]
    assert order == sorted(order) and page.count("<svg viewBox") == 6 and page.count("Drawn from 12 baseline runs only.") == 5
    for said in ("Findings on scaling use only 12 baseline runs.",
                 "Variant masked against baseline, 0.6 times the training FLOPs per image",
                 "at equal images the score is 10.0 % higher on pico/2 and 10.0 % higher on nano/2",
                 "INCONCLUSIVE (one seed gives no estimate of the noise)", "<th>Variant</th>",
                 "baseline 12, masked 2, mdt 2",
                 "<td>teacher_entropy_cls (watched)</td>", f"<strong>Warning</strong> from {run_id}: collapse &lt;b&gt;"):
        assert said in page
    assert json.loads((folder / "analysis" / "power_law.json").read_text())["score_vs_macs"]["n_runs"] == 12


def test_terms_are_the_first_and_last_logged(mixed, tmp_path):
    run_id = mixed[mixed["variant"] == "mdt"]["run_id"].iloc[0]
    (tmp_path / run_id).mkdir()
    lines = [{"images_seen": 1, "loss/generative_full": 2.0, "watch/kl_cls": 1.0}, {"images_seen": 2, "loss/generative_full": 1.0}]
    (tmp_path / run_id / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    frame = sources.loss_terms(tmp_path, mixed)
    assert frame[["term", "watched", "first", "last"]].values.tolist() == [
        ["generative_full", False, 2.0, 1.0], ["kl_cls", True, 1.0, 1.0]]


def test_baseline_alone_says_nothing_of_variants(table, tmp_path):
    page = report.write(table, "s", tmp_path)[-1].read_text()
    assert "<h2>Variants</h2>" not in page and "<th>Variant</th>" not in page and "Runs by variant" not in page
    assert "Drawn from" not in page and "Findings on scaling" not in page and not (tmp_path / "variants.png").exists()


def test_without_a_baseline_the_most_runs_are_drawn(mixed, tmp_path):
    rows = mixed[mixed["variant"] != "baseline"]
    rows = rows[(rows["variant"] == "mdt") | (rows["model"] == "DiT-nano/2")]
    page = report.write(rows, "s", tmp_path)[-1].read_text()
    assert variant_table.main_variant(rows) == "mdt" and "Findings on scaling use only 2 mdt runs." in page
    assert "Variant masked has no baseline of the same model" in page
