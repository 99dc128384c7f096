"""Each figure from a synthetic study: its files, its points, what its caption claims, and its refusals."""

import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from ditscale.errors import UserError
from ditscale.figures.kit import labels, study_table, style
from ditscale.figures.plots import gflops, power_law, samples, table as table_csv, training_compute
from ditscale.report import findings
from ditscale.scaling.status import Status

KINDS = ("png", "svg", "csv", "txt")


@pytest.mark.parametrize("script", [gflops, training_compute, samples])
def test_writes_four_files_alike_each_time(script, table, tmp_path):
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        paths = style.save(script.draw(table), tmp_path / name)
    assert [path.name for path in paths] == [f"{script.NAME}.{kind}" for kind in KINDS]
    for path in paths:
        assert path.read_bytes() == (tmp_path / "first" / path.name).read_bytes(), path.name


def test_gflops_draws_the_end_of_each_run(table):
    drawing = gflops.draw(table)
    assert len(drawing.points) == 12
    assert "over 12 runs" in drawing.caption and f"{gflops.correlation(table).value:.3f}".lstrip("-") in drawing.caption
    axes = drawing.figure.axes[0]
    assert axes.get_xlabel() == "Forward compute of the model (MMACs per image; 1 MAC = 2 FLOPs)"
    assert {text.get_text() for text in axes.texts} >= {"atto/8", "nano/2"}


def test_labels_do_not_lie_on_each_other(study):
    """Also where three sizes share nearly one compute and one score, and with three seeds a model."""
    for table in (study(), study(alpha=0.0), study(seeds=(0, 1, 2))):
        figure = gflops.draw(table).figure
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) == 13                                           # twelve models and the correlation
        overlaps = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.shrunk(0.9, 0.8).overlaps(b)]
        assert not overlaps


def test_crowded_labels_are_led_to_their_points():
    with style.paper():
        _figure, axes = style.new_axes()
        axes.set(xlim=(1, 100), ylim=(1, 100))
        labels.place(axes, [(10, 10)] * 9, [f"model/{i}" for i in range(9)], [4.0] * 9)
    assert len(axes.texts) == 9 and axes.lines                            # some had to move away


def test_training_compute_shows_law_band_and_floor(table):
    drawing = training_compute.draw(table)
    assert len(drawing.points) == 48
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert "train vs held-out (floor)" in legend and "its 95 % band (profile)" in legend
    assert "power law through the 12 ends" in drawing.caption and "Spearman" in drawing.caption
    assert "the same number of images" in drawing.caption


def test_training_compute_without_a_law_says_why(table):
    one = table[table["model"] == "DiT-nano/2"]
    drawing = training_compute.draw(one)
    assert f"No power law: {Status.ONE_RUN.sentence}" in drawing.caption
    assert len(drawing.figure.axes[0].collections) == 0


def test_a_law_that_the_seeds_speak_against_is_not_drawn(study):
    """The fit keeps its law and says LACK_OF_FIT: neither curve, band nor exponent may stand on the page as if it fitted."""
    table = study(seeds=(0, 1, 2), noise=0.0)
    table["score"] = 5.0 + 200.0 * np.exp(-np.log(table["train_flops"] / 1e12) ** 2) + 0.01 * table["seed"]
    law = power_law.fit_law(table, "train_flops")
    assert law.fit.status is Status.LACK_OF_FIT and law.fit.law is not None
    drawing = training_compute.draw(table, law=law)
    assert f"No power law: {Status.LACK_OF_FIT.sentence}" in drawing.caption and "α" not in drawing.caption
    bands = [shade for shade in drawing.figure.axes[0].collections if not isinstance(shade, LineCollection)]
    assert len(bands) == 12                  # the bands of the seeds; no law, no band of it
    assert not any("final points" in text.get_text() for text in drawing.figure.legends[0].get_texts())
    said = findings.sentences(study_table.finished(table), law, gflops.correlation(table), None)
    assert any(sentence.startswith("No power law of training compute") for sentence in said) and not any("α" in s for s in said)


def test_fit_cards_recover_the_exponent(study, tmp_path):
    table = study(noise=0.0).assign(floor=np.nan)
    table["score"] = 50.0 * (table["train_flops"] / 1e12) ** -0.25
    path, = power_law.write(power_law.fit_laws(table), tmp_path)
    cards = json.loads(path.read_text())
    assert set(cards) == {"score_vs_macs", "score_vs_train_flops"}
    for card in cards.values():
        assert card["coefficients"]["alpha"]["value"] == pytest.approx(0.25)
        assert card["interval"]["method"] == "profile likelihood, F form" and card["n_runs"] == 12 and card["floor"] is None
        assert card["passport"] == "5f1d0c2ab3e4" and "multiply-add" in card["x_counted"]


def test_samples_keep_the_row_of_a_missing_sheet(table):
    table.loc[(table["model"] == "DiT-pico/4") & table["final"], "sample_sheet"] = "gone.npz"
    drawing = samples.draw(table)
    assert drawing.points.query("not has_sheet")["model"].tolist() == ["DiT-pico/4"]
    assert "1 model without a sheet" in drawing.caption
    opaque = drawing.figure.axes[0].images[0].get_array()[..., 3] > 0
    assert opaque.sum() == 11 * 10 * samples.TILE_PX ** 2


def test_samples_refuse_sheets_of_other_classes(table, tmp_path):
    path = tmp_path / "turned.npz"
    np.savez(path, np.zeros((20, 8, 8, 1), np.uint8), np.arange(20)[::-1] % 10)
    table.loc[(table["model"] == "DiT-nano/2") & table["final"], "sample_sheet"] = str(path)
    with pytest.raises(UserError, match="differ in class image by image"):
        samples.draw(table)
    with pytest.raises(UserError, match="no finished run has a sample sheet"):
        samples.draw(table.assign(sample_sheet=""))


@pytest.mark.parametrize("column, other", [("passport", "ffff00001111"), ("metric", "fid"), ("variant", "masked")])
@pytest.mark.parametrize("use", [gflops.draw, training_compute.draw, samples.draw, power_law.fit_laws])
def test_mixed_tables_are_refused(use, column, other, table):
    own = table[column].iloc[-1]
    table.loc[table.index[:5], column] = other
    with pytest.raises(UserError, match=rf"mixes {column}: {other} \(5 rows\), {own} \(43 rows\)"):
        use(table)


def test_scores_without_a_logarithm_are_named(table):
    table.loc[table["model"] == "DiT-atto/8", "score"] = np.nan
    caption = gflops.draw(table).caption
    assert "over 11 runs" in caption and "4 evaluations of digits-atto-8-s0-0badcafe" in caption
    with pytest.raises(UserError, match="no score of fd_digits_cnn is a positive number"):
        gflops.draw(table.assign(score=-1.0))


def test_unfinished_study_is_told_so(table):
    with pytest.raises(UserError, match="none of 12 runs has finished"):
        gflops.draw(table.assign(final=False))


def test_scripts_run_from_the_command_line(table, serve, tmp_path, capsys):
    serve(table)
    for script in (table_csv, gflops, power_law):
        assert script.main([str(tmp_path)]) == 0
    assert pd.read_csv(tmp_path / "analysis" / "table.csv").shape == table.shape
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "analysis" / "power_law.json")


def test_where_picks_one_metric_and_mistakes_are_one_line(table, serve, tmp_path, capsys):
    serve(pd.concat([table, table.assign(metric="fd_other", passport="0123")]))
    assert gflops.main([str(tmp_path), "--where", "metric=fd_other", "--out", str(tmp_path / "o")]) == 0
    assert set(pd.read_csv(tmp_path / "o" / "gflops.csv")["metric"]) == {"fd_other"}
    for conditions, message in (
        ([], "keep one with --where metric=fd_digits_cnn"),
        (["--where", "metrik=fid"], "did you mean 'metric'?"),
        (["--where", "metric=fid"], "metric is one of: fd_digits_cnn (48 rows), fd_other (48 rows)"),
        (["--where", "metric"], "not of the form column=value"),
    ):
        assert gflops.main([str(tmp_path), *conditions]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_empty_ledger_is_told_so(table, serve, tmp_path):
    serve(table.head(0))
    with pytest.raises(UserError, match="has no evaluation yet"):
        study_table.read(tmp_path)


def test_each_script_is_a_command_with_help(monkeypatch, capsys):
    scripts = sorted((Path(__file__).parents[2] / "analysis").glob("*.py"))
    assert {"gflops", "report", "training_compute"} <= {script.stem for script in scripts}
    monkeypatch.setattr("sys.argv", ["script", "--help"])
    for script in scripts:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        assert ended.value.code == 0 and "--out" in capsys.readouterr().out, script.name


def test_three_points_of_one_source_promise_little(repository):
    """Three sizes from DiT's Table 4 lie on a line by luck; resampled runs said 0.335 to 0.340, the twelve say 0.27 to 0.41."""
    table = study_table.read(repository / "analysis" / "published" / "sddit_and_comparison.csv")
    law = power_law.fit_law(table[table["variant"] == "baseline"], "train_flops")
    alpha = law.intervals.coefficients["alpha"]
    assert law.fit.n_runs == 3 and alpha.high - alpha.low > 0.02
    sentence = training_compute.law_sentence(law)
    assert "3 runs, 1 degree of freedom, so few that a narrow interval may be chance" in sentence and "0.335 to 0.340" not in sentence


def test_seeds_are_thin_lines_around_a_mean_with_a_band(study):
    """88 runs: eleven models of eight seeds are eleven curves, each with its band, and as many thin lines as there are runs."""
    table = study(seeds=range(8))
    table = table[table["model"] != "DiT-atto/8"].assign(recipe=lambda rows: rows["model"])
    drawing = training_compute.draw(table)
    axes = drawing.figure.axes[0]
    thin = [segment for lines in axes.collections if isinstance(lines, LineCollection) for segment in lines.get_segments()]
    bands = [shade for shade in axes.collections if not isinstance(shade, LineCollection)]
    means = [line for line in axes.lines if len(line.get_xdata()) == 4 and line.get_marker() in ("o", "s", "^") and line.get_linewidth() > 0.8]
    assert len(thin) == 88 and len(means) == 11 and len(bands) == 11 + 1                       # the law's band is the last
    own = table[table["model"] == "DiT-nano/2"].groupby("train_flops")["score"]
    nano = means[-1]
    assert nano.get_ydata() == pytest.approx(np.exp(own.apply(lambda v: np.log(v).mean())).to_numpy())
    assert "Thin lines are seeds" in drawing.caption and "one curve per model" in drawing.caption and len(drawing.points) == 88 * 4
    names = [text.get_text() for text in axes.texts]
    assert len(names) == len(set(names)) == 11


def test_many_seeds_are_a_median_and_a_band(study):
    """13 seeds of each model: no line for each, and no marker at each run's end."""
    drawing = training_compute.draw(study(seeds=range(13)).assign(recipe=lambda rows: rows["model"]))
    assert not any(isinstance(lines, LineCollection) for lines in drawing.figure.axes[0].collections)
    assert "medians over up to 13 runs" in drawing.caption and "Thin lines" not in drawing.caption and "runs' ends" not in drawing.caption
    few = gflops.draw(study(seeds=range(2))).figure.axes[0].collections
    many = gflops.draw(study(seeds=range(13))).figure.axes[0].collections
    assert len(few[0].get_offsets()) == 24 and len(many[-1].get_offsets()) == 12
