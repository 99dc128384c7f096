"""The figure of a learning-rate sweep: verdicts by parametrization, diverged runs, what it refuses."""

import json

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.plots import learning_rate

RATES = [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]


@pytest.fixture
def sweep():
    """Widths 64 to 256 at five rates, three seeds: under muP the best is 2^-9, without it falls by one octave a doubling."""
    generator, rows = np.random.default_rng(0), []
    for parametrization, fall in (("mup", 0.0), ("standard", 1.0)):
        for at, width in enumerate((64, 128, 256)):
            for rate in RATES:
                for seed in range(3):
                    off = np.log2(rate) + 8.5 + fall * at
                    rows.append({"run_id": f"{parametrization}-{width}-{rate:g}-{seed}", "model": f"DiT-4x{width}/4", "variant": "baseline", "lr": rate,
                                 "seed": seed, "parametrization": parametrization, "macs": width**2, "images_seen": 8192, "final": True, "metric": "loss",
                                 "score": 0.5 * np.exp(0.02 * off**2 + 0.002 * generator.standard_normal()), "passport": "a", "formulation": "flow",
                                 "data": "digits"})
    return pd.DataFrame(rows)


def test_verdicts_by_parametrization(sweep):
    card = learning_rate.draw(sweep).card
    assert card["baseline, mup"]["verdict"] == "TRANSFERS"
    assert card["baseline, standard"]["verdict"] == "SHIFTS" and card["baseline, standard"]["log2_shifts"]["DiT-4x128/4"][0] == pytest.approx(-1.0, abs=0.15)
    best = card["baseline, mup"]["models"]["DiT-4x256/4"]
    assert best["low"] < -8.5 < best["high"] and best["rates"] in (4, 5)


def test_a_run_that_diverged_is_an_edge(sweep):
    rows = sweep[sweep["parametrization"] == "mup"].copy()
    rows.loc[(rows["lr"] == 8e-3) & (rows["model"] == "DiT-4x64/4"), "score"] = np.nan
    drawing = learning_rate.draw(rows)
    found = drawing.card["baseline, mup"]["models"]["DiT-4x64/4"]
    assert found["rates"] == 4 and found["log2_edge"] == pytest.approx(np.log2(8e-3)) and not found["reason"]
    assert drawing.points["score"].isna().sum() == 3 and json.dumps(drawing.card, allow_nan=False)


def test_the_base_counts_for_both(sweep):
    """In a study's table the base size is standard, whatever the runs' config says; muP's verdict has it too."""
    rows = sweep.query("parametrization == 'standard' or model != 'DiT-4x64/4'")
    rows = rows.assign(base_width=rows["parametrization"].map({"mup": 64.0}), base_depth=np.nan)
    card = learning_rate.draw(rows).card
    assert card["baseline, mup"]["verdict"] == "TRANSFERS" and set(card["baseline, mup"]["models"]) == set(card["baseline, standard"]["models"])


def test_labels_of_many_variants_do_not_overlap(sweep):
    mup = sweep[sweep["parametrization"] == "mup"]
    six = pd.concat([mup.assign(variant=name) for name in ("baseline", "discriminative", "masked", "mdt", "sprint", "tread")], ignore_index=True)
    figure = learning_rate.draw(six).figure
    figure.draw_without_rendering()
    boxes = [axes.xaxis.label.get_window_extent() for axes in figure.axes if axes.get_visible()]
    assert len(boxes) == 6 and not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])


def test_one_rate_is_refused(sweep):
    with pytest.raises(UserError, match="several learning rates"):
        learning_rate.draw(sweep[sweep["lr"] == 1e-3])


def test_a_failed_run_has_a_row(sweep, tmp_path, monkeypatch):
    """Of a study's folder: a run that failed without a score."""
    monkeypatch.setattr(learning_rate.study_table, "read", lambda study: sweep)
    facts = pd.DataFrame([{"run_id": "gone", "model": "DiT-4x64/4", "variant": "baseline", "parametrization": "mup", "lr": 1.6e-2, "seed": 0, "macs": 64**2}])
    monkeypatch.setattr(learning_rate.ledger, "collect_runs", lambda study: facts)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "status.json").write_text(json.dumps({"state": "failed", "images_seen": 0, "reason": "not finite"}))
    rows = learning_rate.ends(learning_rate.read(tmp_path))
    assert rows[rows["run_id"] == "gone"]["score"].isna().all() and (rows["run_id"] == "gone").sum() == 1


def test_a_run_that_failed_after_a_checkpoint_has_a_row(sweep, tmp_path, monkeypatch):
    early = sweep.iloc[:1].assign(run_id="gone", lr=1.6e-2, final=False)
    monkeypatch.setattr(learning_rate.study_table, "read", lambda study: pd.concat([sweep, early], ignore_index=True))
    monkeypatch.setattr(learning_rate.ledger, "collect_runs", lambda study: early.drop(columns=["score", "final", "metric"]))
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "status.json").write_text(json.dumps({"state": "failed", "images_seen": 512, "reason": "not finite"}))
    rows = learning_rate.ends(learning_rate.read(tmp_path))
    assert rows[rows["run_id"] == "gone"]["score"].isna().all() and (rows["run_id"] == "gone").sum() == 1


@pytest.mark.parametrize("column, values", [("series", ["aa", "bb"]), ("images_seen", [8192, 4096])])
def test_recipes_are_not_pooled_as_seeds(sweep, column, values):
    with pytest.raises(UserError, match=f"choose with --where {column}={values[0]}"):
        learning_rate.draw(sweep.assign(**{column: [values[index % 3 == 2] for index in range(len(sweep))]}))
