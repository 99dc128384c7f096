"""The figure of the critical batch size: what runs measured, a sweep with a known law, what it refuses."""

import json

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.plots import critical_batch

BATCHES, CRITICAL = (16, 32, 64, 128, 256), 80.0


@pytest.fixture
def sweep():
    """Five batch sizes at two rates: steps to a loss are S (1 + 80 / B); the second rate takes 1.3 times as many."""
    rows, generator = [], np.random.default_rng(0)
    for batch in BATCHES:
        for lr, slower in ((1e-3, 1.0), (2e-3, 1.3)):
            for seed in range(2):
                luck = np.exp(0.01 * generator.standard_normal())
                for images in range(2000, 40001, 2000):
                    share = images / (30 * (batch + CRITICAL) * slower * luck)
                    rows.append({"run_id": f"{batch}-{lr:g}-{seed}", "model": "DiT-4x64/4", "size": "4x64", "patch_size": 4, "variant": "baseline",
                                 "block": "adaln_zero", "parameters": 4e5, "macs": 1e6, "seed": seed, "lr": lr, "global_batch": batch, "micro_batch": 8,
                                 "images_seen": images, "final": images == 40000, "metric": "loss", "passport": "a", "formulation": "flow", "data": "digits",
                                 "score": 0.5 * share**-0.1, "critical_batch": 40 + images / 1000, "critical_batch_adam": 90.0 if images > 2000 else np.nan})
    return pd.DataFrame(rows)


def test_a_sweep_with_a_known_law(sweep):
    drawing = critical_batch.draw(sweep)
    found = drawing.card["4x64/4, baseline"]
    assert found["critical_batch"] == 80 and found["critical_batch_adam"] == 90 and found["runs"] == 20
    law = found["sweep"]
    assert law["critical_batch"] == pytest.approx(CRITICAL, rel=0.1) and law["low"] < CRITICAL < law["high"] and law["batches"] == 5
    assert law["runs"] == 10                                                    # the better rate of each batch size and seed
    assert len(drawing.figure.axes) == 3 and "95 % interval" in drawing.caption and json.dumps(drawing.card, allow_nan=False)
    assert law["best_rate_at_an_end"] == list(BATCHES) and "the best rate is the lowest or highest one tried" in drawing.caption
    at = critical_batch.draw(sweep, loss=0.5).card["4x64/4, baseline"]["sweep"]
    assert at["loss"] == pytest.approx(0.5) and at["least_steps"] == pytest.approx(30, rel=0.1)


def test_a_rate_that_no_run_should_have_had_does_not_set_the_loss(sweep):
    """The worse rate of the largest batch ends at a loss that is 30 % of images higher: the level is that of the better rates."""
    [(loss, points)] = critical_batch.reached(sweep).values()
    best = sweep[(sweep["global_batch"] == 256) & (sweep["lr"] == 1e-3) & sweep["final"]]["score"]
    assert loss == pytest.approx(best.max(), rel=1e-6) and set(points["lr"]) == {1e-3}


def test_without_a_sweep_only_what_runs_measured(sweep):
    drawing = critical_batch.draw(sweep[sweep["global_batch"] == 32].drop(columns="critical_batch_adam"))
    assert len(drawing.figure.axes) == 1 and "sweep" not in drawing.card["4x64/4, baseline"]


def test_models_of_one_patch_size_have_colors_of_their_own(sweep):
    one = sweep[sweep["global_batch"] == 32]
    two = pd.concat([one, one.assign(model="DiT-4x96/4", size="4x96", parameters=9e5, run_id="wide-" + one["run_id"])])
    drawing = critical_batch.draw(two)
    colors = {line.get_color() for line in drawing.figure.axes[0].lines}
    assert len(colors) == 2 and "color for the model" in drawing.caption
    assert "color for the model" not in critical_batch.draw(two.assign(patch_size=two["patch_size"].where(two["size"] == "4x64", 2))).caption


def test_the_value_at_the_end_is_that_of_trunks_not_of_their_branches(sweep):
    trunk = sweep[sweep["run_id"] == "32-0.001-0"].assign(branch_images=0)
    branch = trunk[trunk["images_seen"] == 4000].assign(run_id="branch", branch_images=3200)
    drawing = critical_batch.draw(pd.concat([trunk, branch]))
    assert drawing.card["4x64/4, baseline"]["critical_batch"] == 80 and len(drawing.figure.axes[0].lines) == 1
    assert "branch" in set(drawing.points["run_id"]) and "Branches are in the CSV alone" in drawing.caption


def test_a_loss_that_too_few_batches_reached(sweep):
    drawing = critical_batch.draw(sweep, loss=1e-3)
    assert "0 batch sizes; 3 are needed" in drawing.caption


def test_no_micro_batches_no_figure(sweep):
    with pytest.raises(UserError, match="smaller resources.micro_batch, or several ranks"):
        critical_batch.draw(sweep.assign(critical_batch=np.nan, critical_batch_adam=np.nan))
    with pytest.raises(UserError, match="no column 'critical_batch'"):
        critical_batch.draw(sweep.drop(columns="critical_batch"))
