"""The figure of branches: which pairs it compares, and its verdicts against a hand-made interval."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ditscale.errors import UserError
from ditscale.figures.plots import branches
from ditscale.studies.table.study import Study

GAINS = {256: (0.90, 0.93, 0.91), 512: (0.97, 1.05, 1.0)}


@pytest.fixture
def table(study):
    """Three trunks of 1280 images, scored every 256, and branches that end at 256 and 512 with ``GAINS``."""
    row = study(seeds=(0,)).iloc[0].to_dict()
    rows = []
    for seed in range(3):
        trunk = f"trunk-s{seed}"
        common = {**row, "seed": seed, "trunk": trunk, "sample_seeds": 1}
        rows += [{**common, "run_id": trunk, "branch_images": 0, "images_seen": images, "score": 100 * images**-0.5 * (1 + 0.01 * seed),
                  "final": images == 1280, "recipe": "r1280"} for images in range(256, 1281, 256)]
        rows += [{**common, "run_id": f"branch-{images}-s{seed}", "branch_images": images * 4 // 5, "images_seen": images, "final": True,
                  "score": 100 * images**-0.5 * (1 + 0.01 * seed) * gains[seed], "recipe": f"r{images}"} for images, gains in GAINS.items()]
    return pd.DataFrame(rows)


def test_each_branch_is_compared_with_its_own_trunk(table):
    found = branches.pairs(table)
    assert found["ratio"].tolist() == pytest.approx([*GAINS[256], *GAINS[512]])
    result = branches.compared(found).set_index("images_seen")
    for images, gains in GAINS.items():
        low, high = stats.t.interval(0.95, 2, np.log(gains).mean(), stats.sem(np.log(gains)))
        assert (result.loc[images, "low"], result.loc[images, "high"]) == pytest.approx((math.expm1(low), math.expm1(high)))
    assert result["verdict"].tolist() == ["REAL", "INCONCLUSIVE"] and result["trunks"].tolist() == [3, 3]


def test_it_draws_and_says_so(table):
    drawing = branches.draw(table)
    assert "at 256: -8.7% (" in drawing.caption and "REAL" in drawing.caption and len(drawing.points) == 6
    assert [row["images_seen"] for row in drawing.card["comparisons"]] == [256, 512]


@pytest.fixture
def grid(study):
    """Two seeds of a trunk of 20,480 images at 3 FLOPs each and its branches in powers of two, with a decay of 20 %."""
    row = study(seeds=(0,)).iloc[0].to_dict()
    rows = []
    for seed in range(2):
        trunk = {**row, "seed": seed, "run_id": f"trunk-s{seed}", "trunk": f"trunk-s{seed}", "branch_images": 0, "sample_seeds": 1, "recipe": "r"}
        rows += [{**trunk, "images_seen": images, "final": images == 20480, "score": images**-0.5, "train_flops": 3 * images, "own_train_flops": 3 * images}
                 for images in range(1280, 20481, 1280)]
        rows += [{**trunk, "run_id": f"branch-{images}-s{seed}", "branch_images": images * 4 // 5, "images_seen": images, "final": True,
                  "score": images**-0.5, "train_flops": 3 * images, "own_train_flops": 3 * images // 5} for images in (1280, 2560, 5120, 10240)]
    return pd.DataFrame(rows)


def test_five_lengths_cost_1_19_with_branches_1_94_without_and_1_as_averages(grid):
    drawing = branches.draw(grid)
    costs = drawing.card["costs"]
    assert [one["images_seen"] for one in costs] == [1280, 2560, 5120, 10240, 20480]
    assert [costs[-1][f"{way}_share"] for way in ("runs", "branches", "averages")] == pytest.approx([1.9375, 1.1875, 1])
    # A study whose longest run is the third length: all of 5120, and the decays of two branches.
    assert costs[2]["branches"] == pytest.approx(3 * (5120 + 0.2 * (1280 + 2560))) and costs[2]["runs"] == 3 * (1280 + 2560 + 5120)
    assert costs[2]["averages"] == 3 * 5120 and len(drawing.figure.axes) == 3
    assert "1.94 of the longest run with a run for each, 1.19 with branches, 1 as averages along one run" in drawing.caption


def test_a_break_even_is_of_trunks_not_of_each_length(grid):
    """The larger model reaches each score for half of the compute, and an image of it costs four times as much."""
    third = grid[grid["seed"] == 0].assign(seed=2).replace({"trunk-s0": "trunk-s2"})
    third["run_id"] = third["run_id"].str.replace("-s0", "-s2")
    small = pd.concat([grid, third], ignore_index=True).assign(model="DiT-atto/2", forwards_per_image=10.0, formulation="flow", data="digits")
    small["recipe"] = np.where(small["branch_images"] > 0, "r" + small["images_seen"].astype(str), "r20480")
    large = small.assign(model="DiT-pico/2", run_id="large-" + small["run_id"], trunk="large-" + small["trunk"], macs=4 * small["macs"],
                         parameters=4 * small["parameters"], train_flops=2 * small["train_flops"], score=small["score"] / 2,
                         recipe="large-" + small["recipe"])
    found = Study(Path("."), pd.concat([small, large], ignore_index=True)).break_evens()
    assert len(found) == 1 and "atto/2 baseline" in found[0].sentence and "pico/2 baseline" in found[0].sentence


@pytest.mark.parametrize("unknown", [lambda table: table.drop(columns="own_train_flops"), lambda table: table.assign(own_train_flops=np.nan),
                                     lambda table: table.assign(final=table["final"] & (table["branch_images"] > 0))])
def test_without_known_costs_or_a_finished_trunk_there_is_no_panel_of_costs(grid, unknown):
    drawing = branches.draw(unknown(grid))
    assert len(drawing.figure.axes) == 2 and drawing.card["costs"] == [] and "Bottom right" not in drawing.caption


def test_a_trunk_that_decays_is_no_average_at_a_constant_rate(table):
    late = table[(table["run_id"] == "branch-512-s0")].assign(run_id="late", images_seen=1280, branch_images=1024)
    assert len(branches.pairs(pd.concat([table, late]))) == 6


def test_two_trunks_give_no_interval(table):
    result = branches.compared(branches.pairs(table[table["seed"] < 2]))
    assert result["verdict"].tolist() == ["INCONCLUSIVE"] * 2 and result["low"].isna().all() and "2 seeds are too few" in result["reason"][0]


def test_what_cannot_be_compared_is_said(table):
    with pytest.raises(UserError, match="no finished branch"):
        branches.draw(table[table["branch_images"] == 0])
    with pytest.raises(UserError, match="no trunk has a score at the images"):
        branches.draw(table[(table["branch_images"] > 0) | (table["images_seen"] > 1000)])
