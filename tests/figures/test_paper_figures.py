"""DiT's Figures 2, 6 and 10 from a synthetic study: points, captions, refusals, files alike each time, no label on another."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.kit import labels, study_table, style
from ditscale.figures.plots import bubbles, sampling_compute, training_curves
from ditscale.models.macs import make_backbone, plain_card
from ditscale.models.sizes import parse_model_name
from ditscale.studies.table import conditions

NFES = (4, 16, 64)


@pytest.fixture
def sampled(study):
    """Each finished run scored at three NFE: with more steps better, and larger models better still."""
    def at(nfe, **more):
        rows = study()
        fields = {"metric": "fd_digits_cnn", "sampler": "euler", "sampling_steps": nfe, "nfe": nfe, "guidance_scale": 1.0, **more}
        return rows.assign(nfe=nfe, score=rows["score"] * (1 + 2 / nfe), passport=f"{nfe:012d}", passport_fields=json.dumps(fields))
    return at


@pytest.mark.parametrize("script", [bubbles, training_curves])
def test_files_are_alike_each_time(script, study, tmp_path):
    table = study()
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        paths = style.save(script.draw(table), tmp_path / name, tuple(style.FORMATS))
    assert {path.suffix for path in paths} == {".png", ".svg", ".pdf", ".csv", ".txt"}
    for path in paths:
        assert path.read_bytes() == (tmp_path / "first" / path.name).read_bytes(), path.name
    assert b"CreationDate" not in (tmp_path / "again" / f"{script.NAME}.pdf").read_bytes()


def test_bubbles_have_the_area_of_the_macs(study):
    drawing = bubbles.draw(study())
    assert len(drawing.points) == 12 and "at 640,000 images seen" in drawing.caption
    axes = drawing.figure.axes[0]
    areas = axes.collections[np.argmax([len(c.get_offsets()) for c in axes.collections])].get_sizes()
    assert np.allclose(areas / areas.max(), drawing.points["macs"] / drawing.points["macs"].max())
    assert [label.get_text().split("\n")[0] for label in axes.get_xticklabels()] == ["atto", "femto", "pico", "nano"]


def test_bubbles_take_the_mean_of_seeds_at_one_count(study):
    table = study(seeds=(0, 1, 2))
    longer = table["model"] == "DiT-nano/2"
    table.loc[longer, "images_seen"] *= 2                               # ends at 1,280,000, passes 640,000
    drawing = bubbles.draw(table)
    assert set(drawing.points["images_seen"]) == {640_000} and set(drawing.points["seeds"]) == {3}
    assert "each is shown at 640,000 images, the largest number that all share" in drawing.caption
    own = table[longer & (table["images_seen"] == 640_000)]["score"]
    row = drawing.points.set_index("model").loc["DiT-nano/2"]
    assert row["score"] == pytest.approx(np.exp(np.log(own).mean())) and row["highest"] == own.max()
    table.loc[longer, "images_seen"] += 1
    assert "share no number of images: each is shown at its end" in bubbles.draw(table).caption


def test_sizes_at_equal_images_are_shown_with_their_tokens_per_parameter(study):
    from ditscale.figures.plots import gflops

    rows = study()
    rows = rows[rows["final"]].assign(images_seen=102_400_000, tokens_per_parameter=lambda own: 1e9 / own["macs"] ** 0.5)
    low, high = (f"{value:.3g}" for value in (rows["tokens_per_parameter"].min(), rows["tokens_per_parameter"].max()))
    least, most = (rows.loc[pick, "model"].removeprefix("DiT-") for pick in (rows["tokens_per_parameter"].idxmin(), rows["tokens_per_parameter"].idxmax()))
    for draw in (bubbles.draw, gflops.draw):
        drawing = draw(rows)
        assert f"({low} to {high} tokens per parameter)" in drawing.figure.axes[0].get_xlabel()
        assert f"{low} to {high} tokens per parameter, from {least} to {most}" in drawing.caption
        without = draw(rows.drop(columns="tokens_per_parameter"))
        assert "tokens" not in without.figure.axes[0].get_xlabel() + without.caption
    assert f"(at the end {low} to {high} tokens per parameter)" in training_curves.draw(rows).figure.subfigs[0].get_supxlabel()


def test_training_curves_fix_the_patch_above_and_the_size_below(study):
    drawing = training_curves.draw(study())
    titles = [axes.get_title(loc="left") for axes in drawing.figure.axes]
    assert titles == ["patch size 8", "patch size 4", "patch size 2", "size atto", "size femto", "size pico", "size nano"]
    assert len(drawing.points) == 48
    for axes in drawing.figure.axes:
        curves = [line for line in axes.lines if len(line.get_xdata()) == 4]
        assert len(curves) == (4 if "patch" in axes.get_title(loc="left") else 3)


def test_training_curves_say_what_is_under_way(study):
    table = study()
    table.loc[table["model"] == "DiT-nano/2", "final"] = False
    assert "1 run not finished" in training_curves.draw(table).caption


def test_sampling_compute_as_the_paper_counts_it():
    """DiT Fig. 10: L/2 at 1000 steps is 80.7 Tflops an image and XL/2 at 128 is 15.2, a multiply-add counted once."""
    for model, nfe, paper in (("DiT-L/2", 1000, 80.7), ("DiT-XL/2", 128, 15.2)):
        macs = plain_card(make_backbone(parse_model_name(model), resolution=32, channels=4, classes=1000)).macs
        flops = sampling_compute.sampling_flops(macs, nfe, 1.0)
        assert round(float(flops) / 2e12, 1) == paper
        assert sampling_compute.sampling_flops(macs, nfe, 1.5) == 2 * flops


def test_sampling_compute_mixes_steps_and_nothing_else(sampled):
    table = pd.concat([sampled(nfe) for nfe in NFES], ignore_index=True)
    drawing = sampling_compute.draw(table)
    assert len(drawing.points) == 12 * 3 and "over 4, 16, 64 model evaluations" in drawing.caption
    points = drawing.points
    assert np.allclose(points["sampling_flops"], 2 * points["macs"] * points["nfe"])
    with pytest.raises(UserError, match=r"mixes passport: .*\(sampler euler, heun\)"):
        sampling_compute.draw(pd.concat([table, sampled(32, sampler="heun")]))
    with pytest.raises(UserError, match=r"keep one with --where sampler=euler$"):
        sampling_compute.draw(pd.concat([table, sampled(32, sampler="heun")]))
    mixed = pd.concat([table, sampled(32, sampler="heun")], ignore_index=True)
    pd.testing.assert_frame_equal(conditions.where(mixed, ["sampler=euler"]), table)
    with pytest.raises(UserError, match=r"keeps no row; sampler is one of: euler \(144 rows\), heun \(48 rows\)"):
        conditions.where(mixed, ["sampler=ddim"])
    with pytest.raises(UserError, match=r"mixes passport: .*\(guidance_scale 1.0, 1.5\)"):
        sampling_compute.draw(pd.concat([table, sampled(32, guidance_scale=1.5).assign(guidance_scale=1.5)]))


def test_sampling_compute_counts_who_wins(sampled):
    rows, *_ = sampling_compute._points(pd.concat([sampled(nfe) for nfe in NFES]))
    wins, pairs = sampling_compute.larger_wins(rows)
    small = [(a, b) for a in rows.itertuples() for b in rows.itertuples() if a.macs < b.macs and a.sampling_flops >= b.sampling_flops]
    assert (wins, pairs) == (sum(b.score < a.score for a, b in small), len(small)) and 0 < wins < pairs
    assert re.search(rf"\({pairs} pairs of points\), the larger one scores better in {wins}\.", sampling_compute._caption(rows, "", ""))


def test_sampling_compute_refuses_what_it_cannot_count(sampled):
    with pytest.raises(UserError, match=r"every score has 16 model evaluations per image.*ditscale evaluate RUN sampling_steps="):
        sampling_compute.draw(sampled(16))
    part = [sampled(nfe, guidance_scale=2.0, guidance_interval="[0.1, 0.7]").assign(guidance_scale=2.0) for nfe in NFES]
    with pytest.raises(UserError, match=r"guidance is used only at the noise levels \[0.1, 0.7\]: this table"):
        sampling_compute.draw(pd.concat(part))
    counted = sampling_compute.draw(pd.concat([rows.assign(forwards_per_image=1.5 * rows["nfe"]) for rows in part])).points
    assert np.allclose(counted["sampling_flops"], 2 * counted["macs"] * 1.5 * counted["nfe"])          # on record: how many steps it doubled
    whole = [sampled(nfe, guidance_scale=2.0, guidance_interval="all").assign(guidance_scale=2.0) for nfe in NFES]
    drawing = sampling_compute.draw(pd.concat(whole))
    assert np.allclose(drawing.points["sampling_flops"], 4 * drawing.points["macs"] * drawing.points["nfe"])


@pytest.mark.parametrize("column, other", [("passport", "ffff00001111"), ("metric", "fid"), ("variant", "masked")])
def test_mixed_tables_are_refused(column, other, study, sampled):
    table = study()
    table.loc[table.index[:5], column] = other
    for script in (bubbles, training_curves):
        with pytest.raises(UserError, match=rf"mixes {column}: {other} \(5 rows\)"):
            script.draw(table)
    if column != "passport":
        with pytest.raises(UserError, match=f"mixes {column}"):
            sampling_compute.draw(pd.concat([sampled(4), sampled(16).assign(**{column: other})]))


def test_no_label_lies_on_another(study, sampled):
    figures = [bubbles.draw(study()).figure, bubbles.draw(study(alpha=0.05, seeds=(0, 1))).figure, training_curves.draw(study()).figure,
               sampling_compute.draw(pd.concat([sampled(nfe) for nfe in NFES])).figure]
    for figure in figures:
        figure.draw_without_rendering()
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.texts]
            assert len(boxes) in (3, 4, 12)
            assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.shrunk(0.9, 0.8).overlaps(b)]


def test_a_column_of_labels_keeps_their_order():
    with style.paper():
        _figure, axes = style.new_axes()
        axes.set(xlim=(1, 100), ylim=(1, 100))
        labels.stack(axes, [(50, score) for score in (9, 10, 10.5, 60)], ["c", "b", "a", "far"])
    heights = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert heights["far"].y0 > heights["a"].y1 > heights["a"].y0 >= heights["b"].y1 and heights["b"].y0 >= heights["c"].y1
    assert abs((heights["far"].y0 + heights["far"].y1) / 2 - axes.transData.transform((50, 60))[1]) < 2


def test_each_has_units_on_its_axes(study, sampled):
    axes = sampling_compute.draw(pd.concat([sampled(nfe) for nfe in NFES])).figure.axes[0]
    assert axes.get_xlabel() == "Sampling compute (FLOPs per image)" and axes.get_ylabel() == "fd_digits_cnn (lower is better)"
    figure = training_curves.draw(study()).figure
    assert [part.get_supxlabel() for part in figure.subfigs] == ["Images seen"] * 2
    assert style.score_label(study().assign(metric="fid")) == "FID (lower is better)"


def test_a_cost_that_is_nowhere_known_is_told(study):
    with pytest.raises(UserError, match="forward compute is not known for any row"):
        bubbles.draw(study().assign(macs=np.nan))
    one = study()
    one.loc[one["model"] == "DiT-atto/8", "macs"] = np.nan
    assert "their forward compute is not known: DiT-atto/8" in bubbles.draw(one).caption
    assert study_table.known(one, "macs", "forward compute")[0]["macs"].notna().all()
