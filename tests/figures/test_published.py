"""Published results: as a study of their own, and beside one's own runs. Reads the tables that ditscale carries."""

import re

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.kit import overlay, overtaking, published, study_table
from ditscale.figures.plots import bubbles, gflops, power_law, training_compute, training_curves
from ditscale.scaling.crossing import Order

DIT = published.FOLDER / published.TABLES["dit"]


@pytest.fixture(scope="module")
def dit():
    return study_table.read(DIT)


@pytest.fixture(scope="module")
def own():
    """A made-up FID study in DiT's setting: its twelve models at 400K steps, each score off by 3 %."""
    rows = study_table.scored(study_table.read(DIT))[0].query("images_seen == 102_400_000")
    rows = rows.assign(score=rows["score"] * 1.03, final=True, sample_sheet="", floor=2.0)
    return rows.drop(columns=["source", "verified", "resolution", "block"]).reset_index(drop=True)


def test_dit_figure_8_from_the_csv_alone(dit, tmp_path, capsys):
    assert gflops.correlation(dit).value == pytest.approx(-0.92985, abs=5e-6)
    assert gflops.main([str(DIT), "--out", str(tmp_path)]) == 0
    points, caption = pd.read_csv(tmp_path / "gflops.csv"), (tmp_path / "gflops.txt").read_text()
    assert len(points) == 12 and set(points["images_seen"]) == {102_400_000}
    assert "−0.930 over 12 runs" in caption and "102,400,000 images, the largest number that all share" in caption
    assert "Of the table's 19 results these are the 14 that can be compared" in caption
    assert any("= −0.93, n = 12" in text.get_text() for text in gflops.draw(dit).figure.axes[0].texts)


def test_dit_figure_9_from_the_csv_alone(dit):
    drawing = training_compute.draw(dit)
    at_400k = drawing.points.query("images_seen == 102_400_000").set_index("model")
    assert len(at_400k) == 12 and len(drawing.points) == 14
    # DiT's own unit, "Gflops" of training: GMACs x batch x steps x 3
    assert at_400k.loc["DiT-XL/4", "train_flops"] / 2e9 == pytest.approx(29.05 * 256 * 400e3 * 3)
    longest = drawing.points.query("images_seen == 1_792_000_000")
    assert longest["train_flops"].item() == pytest.approx(1.2754e21, rel=3e-4) and longest["score"].item() == 9.62


def test_the_table_does_not_decide_where_xl2_overtakes_xl4(dit):
    """The paper says near 1e10 "Gflops", 2e19 FLOPs; XL/4's one checkpoint is at 0.89e10 and XL/2's first at 3.6e10."""
    usable, _ = study_table.scored(dit)
    pairs = {(coarse, fine): crossing for coarse, fine, crossing in overtaking.by_patch(usable)}
    assert len(pairs) == 8 and pairs["DiT-XL/4", "DiT-XL/2"].order is Order.NO_SHARED_COST
    assert "These data do not show where one patch size overtakes another" in training_compute.draw(dit).caption
    flops = usable[usable["size"] == "XL"].groupby("patch_size")["train_flops"]
    assert flops.max()[4] < 2e19 < flops.min()[2]


def test_overtaking_is_told_between_checkpoints(study):
    """Scores made so that at size nano patch 2 passes patch 4 at 2e12 FLOPs, between checkpoints."""
    table = study()
    usable, _ = study_table.scored(table[table["model"].isin(["DiT-nano/4", "DiT-nano/2"])])
    fine = usable["patch_size"] == 2
    compute = usable["train_flops"] / 2e13
    (_, _, before), = overtaking.by_patch(usable.assign(score=np.where(fine, 20 * compute ** -0.9, 20 * compute ** -0.2)))
    assert before.order is Order.OVERTAKES and before.cost == pytest.approx(2e13, rel=1e-6)
    assert before.bracket[0] < 2e13 < before.bracket[1]
    (_, _, never), = overtaking.by_patch(usable.assign(score=np.where(fine, 30 * compute ** -0.2, 20 * compute ** -0.2)))
    assert never.order is Order.ABOVE


def test_costs_of_the_variants():
    """Closed forms where a variant's structure is public; nothing made up for the others."""
    masked = published.read(published.FOLDER / "maskdit.csv").set_index(["resolution", "guidance_scale"]).loc[(256, 1.0)]
    assert masked["train_flops"] / masked["images_seen"] == pytest.approx(6 * 65.451e9, rel=1e-4)      # half the tokens, and a decoder
    mdt = published.read(published.FOLDER / "mdt.csv").query("model == 'MDT-XL/2' and guidance_scale == 1").iloc[0]
    assert mdt["variant"] == "mdt" and mdt["train_flops_per_image"] == pytest.approx(6 * 207.59e9, rel=1e-4)
    sddit = published.read(published.FOLDER / "sddit_and_comparison.csv").query("variant == 'discriminative'")
    assert sddit["train_flops"].isna().all() and sddit["macs"].isna().all()


def test_every_table_is_read_with_its_source():
    for name in published.TABLES:
        rows = published.load([name])
        assert (rows["source"] != "").all() and set(rows["verified"]) <= {"yes", "memory"}
        assert (rows["images_seen"] > 0).all() and (rows["score"] > 0).all()
        assert rows["run_id"].notna().all() and not rows.duplicated(["run_id", "images_seen"]).any()
    with pytest.raises(UserError, match="no such table; did you mean 'maskdit'"):
        published.load(["maskdt"])


@pytest.fixture(scope="module")
def drawn(own):
    """Each figure alone and beside DiT's own results, drawn once."""
    kept = {}

    def draw(figure):
        if figure not in kept:
            chosen = overlay.choose(own, published.load(["dit"]), unverified=False)
            kept[figure] = figure.draw(own), figure.draw(own, chosen)
        return kept[figure]
    return draw


@pytest.mark.parametrize("figure", [gflops, training_compute, bubbles, training_curves])
def test_published_rows_beside_move_no_number(figure, drawn):
    alone, both = drawn(figure)
    mine = both.points[both.points["source"] == overlay.OWN]
    pd.testing.assert_frame_equal(mine.drop(columns=["source", "verified"]), alone.points, check_dtype=False)
    assert set(both.points["verified"]) == {"", "yes"} and len(both.points) > len(mine)
    assert both.caption.startswith(alone.caption) and "DiT 2212.09748 Table 4" in both.caption
    assert "in no fit and no correlation" in both.caption and "†" not in both.caption
    assert [text for text in _legend(both) if text.startswith("published")] == ["published"]


def test_unverified_rows_have_a_dagger_and_another_marker(own):
    rows = published.load(["mdt"])
    assert "not verified" in overlay.choose(own, rows, unverified=False).left_out
    drawing = training_compute.draw(own, overlay.choose(own, rows, unverified=True))
    names = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert "MDT-S/2†" in names and "MDT-B/2" in names
    assert {line.get_marker() for line in drawing.figure.axes[0].lines} >= {overlay.MARKER, overlay.UNVERIFIED_MARKER}
    assert "do not cite them" in drawing.caption and "unverified †" in _legend(drawing)
    assert set(drawing.points["verified"]) == {"", "yes", "memory"}


def test_legends_stay_on_the_page(own):
    chosen = overlay.choose(own, published.load(["mdt"]), unverified=True)
    for draw in (gflops.draw, bubbles.draw, training_curves.draw):
        figure = draw(own, chosen).figure
        figure.draw_without_rendering()
        for legend in figure.legends:
            assert legend.get_window_extent().x1 <= figure.bbox.x1, draw.__module__


def test_law_and_correlation_know_no_published_row(drawn):
    assert "−0.930 over 12 runs" in drawn(gflops)[1].caption
    assert "through the 12 ends" in drawn(training_compute)[1].caption


def test_another_metric_guidance_or_length_is_refused(own, study):
    rows = published.load(["dit"])
    with pytest.raises(UserError, match="the scores here are fd_digits_cnn: the features"):
        overlay.choose(study(), rows, unverified=False)
    with pytest.raises(UserError, match="no published result can be compared with this study: 19 with other guidance"):
        overlay.choose(own.assign(guidance_scale=4.0), rows, unverified=False)
    with pytest.raises(UserError, match="here guidance is searched for each checkpoint"):      # whatever it chose: a paper states its scale
        overlay.choose(own.assign(passport_fields='{"selected_on": "a search"}'), rows, unverified=False)
    with pytest.raises(UserError, match="no published result at 5,000,000 images seen.* 102,400,000"):
        gflops.draw(own.assign(images_seen=5_000_000), overlay.choose(own, rows, unverified=False))


def test_names_of_published_results_lie_on_nothing(drawn):
    for script in (gflops, training_compute, bubbles):
        figure = drawn(script)[1].figure
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) >= 24
        assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.shrunk(0.9, 0.8).overlaps(b)], script.NAME


def test_options_of_the_command_line(tmp_path, capsys):
    to = ["--out", str(tmp_path)]
    mdt = published.FOLDER / "mdt.csv"
    assert gflops.main([str(DIT), "--published", "sit_repa_sra_tread", "--format", "pdf,svg", *to]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".svg", ".csv", ".txt"}
    assert training_compute.main([str(mdt), "--unverified", *to]) == 0
    assert "do not cite" in (tmp_path / "training_compute.txt").read_text()
    for arguments, message in (
        ([str(DIT), "--format", "gif"], "no such format"),
        ([str(DIT), "--published", "mask"], "no such table; did you mean 'maskdit'?"),
        ([str(DIT), "--where", "model=DiT-XL/2", "--where", "resolution=512", "--published", "dit_benchmarks", "--where", "guidance_scale=1"],
         None),
        ([str(published.FOLDER / "scaling_law_fits.csv")], "lacks the columns"),
        ([str(tmp_path / "none.csv")], "no such file"),
    ):
        code = gflops.main([*arguments, *to])
        error = capsys.readouterr().err
        assert code == (2 if message else 0) and (message or "") in error and error.count("\n") == (1 if message else 0)


def test_a_published_table_with_a_fault_is_refused(tmp_path):
    raw = pd.read_csv(DIT, dtype=str, keep_default_na=False)
    path = tmp_path / "mine.csv"
    for change, message in (
        (lambda rows: rows.drop(columns=["gflops", "nfe"]), "needs the columns 'gflops', 'nfe'"),
        (lambda rows: rows.assign(fid=["good", *rows["fid"][1:]]), "line 2: fid 'good' is not a number"),
        (lambda rows: rows.assign(fid=""), "none of its 19 rows states an FID"),
        (lambda rows: rows.assign(verified="memory"), "none of its 19 results is verified"),
    ):
        change(raw).to_csv(path, index=False)
        with pytest.raises(UserError, match=message):
            study_table.read(path)


def _legend(drawing) -> list[str]:
    return [text.get_text() for legend in drawing.figure.legends for text in legend.get_texts()]


def test_a_law_joins_neither_families_nor_lengths(dit):
    """MDT is not MDTv2; and DiT-XL/2 at 7M steps is in no law with eleven models at 400K."""
    mdt = study_table.read(published.FOLDER / "mdt.csv")
    assert {"MDT", "MDTv2"} <= set(mdt["family"])
    kept, told = study_table.scored(mdt)
    assert kept["family"].nunique() == 1 and f"({kept['family'].iloc[0]}, " in told
    assert study_table.scored(mdt[mdt["family"] == "MDTv2"])[0]["family"].unique() == ["MDTv2"]
    ends, chosen = study_table.law_ends(study_table.scored(dit)[0])
    assert len(ends) == 12 and set(ends["images_seen"]) == {102_400_000} and "102,400,000 images only" in chosen
    law = power_law.fit_law(dit, "train_flops")
    assert law.fit.n_points == 12 and law.fit.x_range[1] == pytest.approx(6 * 118.64e9 * 102_400_000, rel=1e-3)
    sit = study_table.scored(study_table.read(published.FOLDER / "sit_repa_sra_tread.csv"))[0]
    assert set(sit["family"]) == {"SiT"} and sit["train_flops"].notna().all()              # REPA's rows are more, of unknown compute
    assert published._family("SiT-XL/2 + REPA") == "SiT + REPA" and published._family("DiT-XL/2 in-context") == "DiT"


@pytest.mark.parametrize("name", published.TABLES)
def test_what_a_source_does_not_state_is_never_nan(name, capsys):
    table = study_table.read(published.FOLDER / published.TABLES[name])
    told = study_table.scored(table)[1]
    assert not re.search(r"\b(nan|None|inf)\b", told), told


def test_a_published_cost_of_zero_is_refused(tmp_path):
    raw = pd.read_csv(DIT, dtype=str, keep_default_na=False)
    raw.assign(gflops=["0", *raw["gflops"][1:]]).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(UserError, match="line 2: gflops 0 must be above 0"):
        study_table.read(tmp_path / "mine.csv")
