"""Figures of several panels: block designs, and every metric of an evaluation."""

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.kit import panels, seeds, study_table, style
from ditscale.figures.plots import block_designs, metrics


@pytest.fixture
def blocks(study, made):
    return made.blocks(study(seeds=(0, 1, 2)))


def legend(drawing) -> list[str]:
    return [text.get_text() for text in drawing.figure.legends[0].get_texts() if text.get_text().strip()]


@pytest.mark.parametrize("draw, rows", [(block_designs.draw, "blocks"), (metrics.draw, "metrics")])
def test_writes_four_files_alike_each_time(draw, rows, table, tmp_path, made):
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        paths = style.save(draw(getattr(made, rows)(table)), tmp_path / name)
    assert all(path.read_bytes() == (tmp_path / "first" / path.name).read_bytes() for path in paths) and len(paths) == 4


def test_block_designs_over_images_and_over_flops(blocks, study, made):
    drawing = block_designs.draw(blocks)
    left, right = drawing.figure.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("Images seen", "Training compute (FLOPs)")
    assert set(legend(drawing)) == {"in-context", "cross-attention", "adaLN", "adaLN-Zero", "floor"}
    assert len(drawing.points) == 4 * 3 * 4 and len(left.collections) == len(right.collections) == 2 * 4         # thin lines and bands
    assert "cross-attention 1.16" in drawing.caption and "Student's 95 % intervals" in drawing.caption
    one_seed = block_designs.draw(made.blocks(study()))
    assert not one_seed.figure.axes[0].collections and "no difference here is distinguishable" in one_seed.caption


def test_block_designs_refuse_what_is_no_comparison_of_blocks(blocks):
    with pytest.raises(UserError, match="only one block design, adaln_zero: give a study that varies model.block"):
        block_designs.draw(blocks[blocks["block"] == "adaln_zero"])
    with pytest.raises(UserError, match="mixes passport"):
        block_designs.draw(blocks.assign(passport=["a", "b"] * 24))
    with pytest.raises(UserError, match="mixes model: .*keep one with --where model=DiT-nano/2"):
        block_designs.draw(pd.concat([blocks, blocks.assign(model="DiT-pico/2")]))
    with pytest.raises(UserError, match="mixes lr"):
        block_designs.draw(blocks.assign(lr=np.where(blocks["block"] == "adaln", 1e-3, 2e-3)))
    with pytest.raises(UserError, match="the table has no column 'block'"):
        block_designs.draw(blocks.drop(columns="block"))


def test_the_mean_over_seeds_is_geometric_and_its_interval_students(blocks):
    from scipy import stats

    own = blocks[blocks["block"] == "adaln"]
    at = own[own["images_seen"] == 640_000]["score"].to_numpy()
    last = seeds.over_seeds(own, "images_seen").iloc[-1]
    told = stats.ttest_1samp(np.log(at), 0.0).confidence_interval(0.95)
    assert last["mean"] == pytest.approx(stats.gmean(at)) and last["seeds"] == 3
    assert (last["low"], last["high"]) == pytest.approx((np.exp(told.low), np.exp(told.high)))
    cut = own[~((own["seed"] == 1) & (own["images_seen"] == 640_000))]
    assert seeds.over_seeds(cut, "images_seen")["x"].max() == 320_000                # a mean of fewer runs would jump
    two = seeds.over_seeds(own[own["seed"] < 2], "images_seen")
    assert two["mean"].notna().all() and two["low"].isna().all()


def test_a_row_for_every_metric_with_its_direction(table, made):
    drawing = metrics.draw(made.metrics(table))
    left = drawing.figure.axes[::2]
    assert [axes.get_ylabel() for axes in left] == [
        "fd_digits_cnn\nlower is better", "sFID\nlower is better", "KID\nlower is better", "Inception Score\nhigher is better",
        "Precision\nhigher is better", "Recall\nhigher is better"]
    assert [axes.get_yscale() for axes in left] == ["log"] * 3 + ["linear"] * 3
    ends = drawing.points[drawing.points["final"]]
    r = np.corrcoef(np.log(ends["macs"]), ends["values.recall"])[0, 1]
    assert f"Recall {r:.3f}" in drawing.caption and "over 12 runs" in drawing.caption
    assert {"values.sfid", "values.recall"} <= set(drawing.points) and "values.is_std" not in drawing.points


def test_metrics_that_few_evaluations_hold(table, made):
    some = made.metrics(table)
    some.loc[some["size"] == "nano", "values.sfid"] = np.nan
    some["values.kid"] -= some["values.kid"].median()                               # unbiased KID can be below 0
    drawing = metrics.draw(some)
    assert drawing.figure.axes[3].get_title(loc="right").endswith("n = 9") and drawing.figure.axes[4].get_yscale() == "linear"
    assert "The evaluations have no other metric: set evaluation.also." in metrics.draw(table).caption


def test_metrics_of_a_csv_with_gaps(table, made, tmp_path):
    some = made.metrics(table)
    some.loc[some["size"] == "nano", "values.sfid"] = np.nan
    some.to_csv(tmp_path / "study.csv", index=False)
    read = study_table.read(tmp_path / "study.csv")
    assert read["values.sfid"].isna().sum() == 12 and read["mfu"].isna().all() and set(read["block"]) == {"adaln_zero"}
    assert metrics.draw(read).figure.axes[3].get_title(loc="right").endswith("n = 9")


def test_flops_ticks_of_a_short_span_can_be_read(table, made):
    two = made.metrics(table[table["model"].isin(["DiT-femto/2", "DiT-pico/2"]) & table["final"]])
    figure = metrics.draw(two).figure
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[-2].get_xticklabels() if label.get_text()]
    assert len(boxes) >= 2 and not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:]))


def test_metrics_refuse_mixed_passports_and_unfinished_studies(table):
    with pytest.raises(UserError, match="mixes passport"):
        metrics.draw(table.assign(passport=["a", "b"] * 24))
    with pytest.raises(UserError, match="none of 12 runs has finished"):
        metrics.draw(table.assign(final=False))


def test_names_and_ticks_do_not_lie_on_each_other(table, blocks, made):
    for drawing in (metrics.draw(made.metrics(table)), block_designs.draw(blocks)):
        drawing.figure.draw_without_rendering()
        for axes in drawing.figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_visible() and label.get_text()]
                assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:]))


def test_a_long_legend_ends_with_the_number_of_the_others():
    figure, _ = panels.grid(1, 1, row_height=3.0)
    panels.legend(figure, [panels.color_handle("#12355b", f"entry {i}") for i in range(100)])
    words = [text.get_text() for text in figure.legends[0].get_texts() if text.get_text().strip()]
    assert len(words) == panels.MOST_ENTRIES and words[-1] == "and 73 more"


@pytest.mark.parametrize("labels, columns", [(["baseline", "masked", "mdt", "discriminative", "nano/2"], 4), (["baseline+dispersive+sra2"] * 5, 2),
                                             (["a variant of a name that no figure has the width for, with some losses beside it"] * 2, 1)])
def test_a_legend_has_as_many_columns_as_fit(labels, columns):
    assert style.RC["legend.fontsize"] == panels.LEGEND_SIZE
    with style.paper():
        figure, _ = panels.grid(1, 2, row_height=3.0)
        panels.legend(figure, [panels.color_handle("#1c1f24", label) for label in labels], columns=4, break_after=4)
        style.freeze(figure)
        [drawn] = figure.legends
        assert drawn._ncols == columns
        assert columns == 1 or drawn.get_window_extent().width <= figure.bbox.width


def test_many_recipes_of_a_model_are_one_set(study):
    rows = pd.concat([study().assign(recipe=f"r{i}", run_id=lambda own, i=i: own["run_id"] + f"-{i}") for i in range(4)], ignore_index=True)
    assert len(panels.seed_groups(rows)) == 12 and len(panels.seed_groups(rows[rows["recipe"] < "r2"])) == 24
