"""Sweeps: one setting may differ and nothing else, at equal images; the lowest mean is marked and never oversold."""

import json

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.kit import style, sweep_rows
from ditscale.figures.plots import sweeps

RATIOS = [0.1, 0.2, 0.3, 0.5, 0.75]
SCALES = [1.0, 1.25, 1.5, 2.0]


@pytest.fixture
def rows(study):
    return study(seeds=(0, 1, 2))


@pytest.fixture
def masks(rows, made):
    return pd.concat([made.sweep(rows, RATIOS, 0.25, "mask_ratio", "masked", noise=0.005),
                      made.sweep(rows, RATIOS, 0.45, "mask_ratio", "mdt", noise=0.005)], ignore_index=True)


@pytest.fixture
def guided(rows, made):
    """Each run scored at several guidance scales: same run, same checkpoint, other passports."""
    own = made.sweep(rows, SCALES, 1.5, "scale")
    own["run_id"] = "run-s" + own["seed"].astype(str)
    return pd.concat([made.passport(part.drop(columns="scale"), guidance_scale=scale) for scale, part in own.groupby("scale")],
                     ignore_index=True)


def test_one_curve_a_variant_with_its_lowest_ringed(masks, tmp_path):
    drawing = sweeps.draw(masks, "mask_ratio")
    axes, = drawing.figure.axes
    assert drawing.name == "sweep_mask_ratio" and axes.get_xlabel() == "Mask ratio (share of tokens)"
    assert "pico/2 masked: lowest at 0.2" in drawing.caption and "pico/2 mdt: lowest at 0.5" in drawing.caption
    rings = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_xdata()[0] for line in rings] == [0.5, 0.2] or [line.get_xdata()[0] for line in rings] == [0.2, 0.5]
    assert len(axes.collections) == 2 and len(drawing.points) == 30                 # a band each, a row a seed
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        paths = style.save(sweeps.draw(masks, "mask_ratio"), tmp_path / name)
    assert all(path.read_bytes() == (tmp_path / "first" / path.name).read_bytes() for path in paths)


def test_what_is_not_told_apart_is_said(rows, made):
    noisy = sweeps.draw(made.sweep(rows, RATIOS, 0.25, "mask_ratio", noise=0.3), "mask_ratio").caption
    assert "INCONCLUSIVE against" in noisy
    one_seed = made.sweep(rows[rows["seed"] == 0], RATIOS, 0.25, "mask_ratio")
    drawing = sweeps.draw(one_seed, "mask_ratio")
    assert "One seed per curve: no difference here is distinguishable" in drawing.caption and not drawing.figure.axes[0].collections
    edge = sweeps.draw(made.sweep(rows, RATIOS, 0.1, "mask_ratio", noise=0.0), "mask_ratio").caption
    assert "lowest at 0.1" in edge and "the end of the sweep: the best value may lie beyond it" in edge


def test_guidance_may_differ_and_nothing_else_of_the_passport(guided, made):
    drawing = sweeps.draw(guided, "guidance_scale")
    assert drawing.points["value"].unique().tolist() == SCALES and drawing.points["curve"].unique().tolist() == ["pico/2"]
    other = made.passport(guided[guided["guidance_scale"] == 1.5], guidance_scale=1.5, samples=500)
    mixed = pd.concat([guided[guided["guidance_scale"] != 1.5], other])
    with pytest.raises(UserError, match=r"differ in more than guidance_scale: samples 2000, 500\. .*keep one with --where samples=2000"):
        sweeps.draw(mixed, "guidance_scale")
    with pytest.raises(UserError, match="mixes passport"):
        sweeps.draw(guided, "lr")


def test_steps_and_evaluations_of_the_model_go_together(rows, made):
    own = made.sweep(rows, [8, 16, 32], 32, "nfe")
    parts = [made.passport(part, nfe=nfe, sampling_steps=nfe // 2) for nfe, part in own.groupby("nfe")]
    table = pd.concat(parts, ignore_index=True)
    assert sweeps.draw(table, "nfe").points["value"].unique().tolist() == [8, 16, 32]
    assert sweeps.draw(table, "sampling_steps").points["value"].unique().tolist() == [4, 8, 16]


def test_the_image_count_is_one_that_all_share(rows, made):
    last = made.sweep(rows, RATIOS, 0.25, "mask_ratio")
    early = last.assign(images_seen=320_000, final=False)
    late = pd.concat([early, last[last["mask_ratio"] != 0.3]], ignore_index=True)
    assert set(sweeps.draw(late, "mask_ratio").points["images_seen"]) == {320_000}
    assert set(sweeps.draw(late, "mask_ratio", at=640_000).points["value"]) == {0.1, 0.2, 0.5, 0.75}
    with pytest.raises(UserError, match="--at 7: no evaluation after 7 images; there are evaluations after 320000, 640000"):
        sweeps.draw(late, "mask_ratio", at=7)
    parted = pd.concat([early[early["mask_ratio"] < 0.3], last[last["mask_ratio"] >= 0.3]])
    with pytest.raises(UserError, match="no image count at which every run was evaluated; choose one with --at"):
        sweeps.draw(parted, "mask_ratio")


def test_another_setting_must_not_differ_unless_it_moves_along(masks):
    crossed = pd.concat([masks, masks.assign(lr=2e-3, run_id=masks["run_id"] + "b")], ignore_index=True)
    with pytest.raises(UserError, match="runs of one curve also differ in lr: 0.001, 0.002; keep one with --where lr="):
        sweeps.draw(crossed, "mask_ratio")
    tied = masks.assign(lr=masks["mask_ratio"] / 100)
    assert "These change with mask_ratio: lr. The curve shows the joint effect." in sweeps.draw(tied, "mask_ratio").caption
    twins = pd.concat([masks, masks.assign(run_id=masks["run_id"] + "b")], ignore_index=True)
    with pytest.raises(UserError, match="two scores for mask_ratio .* they differ in something that the table does not show"):
        sweeps.draw(twins, "mask_ratio")


def test_no_sweep_is_told_so(table, masks, made):
    with pytest.raises(UserError, match="--over lr: no model and variant has two values of it after 640000 images; the values are 0.001"):
        sweeps.draw(made.passport(table), "lr")
    with pytest.raises(UserError, match="--over mask_ration: no column or passport field of that name .*; did you mean 'mask_ratio'"):
        sweeps.draw(masks, "mask_ration")


def test_a_config_key_is_read_from_the_runs(rows, serve, tmp_path, capsys, made):
    own = made.sweep(rows, [1, 2, 3], 2, "kind").assign(variant="discriminative")
    names = {1: "same", 2: "sigma_min", 3: "uniform_below"}
    for run_id, kind in zip(own["run_id"], own["kind"]):
        (tmp_path / run_id).mkdir()
        config = {"objective": {"name": "discriminative", "teacher_noise": names[kind], "cls_weight": float(kind)}}
        (tmp_path / run_id / "run.json").write_text(json.dumps({"config": config}))
    serve(own.drop(columns="kind"))
    assert sweeps.main([str(tmp_path), "--over", "objective.teacher_noise"]) == 0
    points = pd.read_csv(tmp_path / "analysis" / "sweep_objective_teacher_noise.csv")
    assert set(points["value"]) == set(names.values())
    assert sweeps.main([str(tmp_path), "--over", "objective.cls_weight", "--at", "640000"]) == 0
    assert "lowest at 2.0" in (tmp_path / "analysis" / "sweep_objective_cls_weight.txt").read_text()
    capsys.readouterr()
    assert sweeps.main([str(tmp_path), "--over", "objective.cls_wait"]) == 2
    assert "did you mean 'objective.cls_weight'?" in capsys.readouterr().err


def test_with_value_leaves_out_runs_that_have_none(masks):
    masks.loc[masks["variant"] == "mdt", "mask_ratio"] = np.nan
    assert set(sweep_rows.with_value(masks, "mask_ratio")["variant"]) == {"masked"}
