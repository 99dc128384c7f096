"""Figures of what runs log while they train: loss curves, speed and memory."""

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.kit import style
from ditscale.figures.plots import loss_curves, throughput


@pytest.fixture
def runs(table):
    return table[table["final"]].reset_index(drop=True)


@pytest.fixture
def mixed(runs):
    more = [runs[runs["size"] == "pico"].assign(variant=variant, run_id=lambda own: own["run_id"] + own["variant"])
            for variant in ("masked", "mdt")]
    return pd.concat([runs, *more], ignore_index=True)


def same_again(draw, tmp_path):
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        paths = style.save(draw(), tmp_path / name)
    return all(path.read_bytes() == (tmp_path / "first" / path.name).read_bytes() for path in paths)


def test_loss_curves_whole_and_early(runs, tmp_path, made):
    made.losses(tmp_path / "study", runs)
    lines = loss_curves.read(tmp_path / "study", runs)
    drawing = loss_curves.draw(lines)
    whole, early = drawing.figure.axes
    assert whole.get_xlim() == (0, 640_000) and early.get_xlim() == (0, 64_000)
    assert len(drawing.points) == 12 * 200 and len(whole.lines) == 2 * 12           # a light and a smooth line a run
    assert "a window of 12.8 k images" in drawing.caption and "term generative" in drawing.caption
    assert same_again(lambda: loss_curves.draw(lines), tmp_path)


def test_smoothing_is_the_mean_of_the_window():
    own = np.array([[10.0, 20.0, 30.0, 40.0], [4.0, 2.0, 6.0, 8.0]])
    assert loss_curves.smoothed(*own, 20).tolist() == [3.0, 4.0, 16 / 3, 7.0]
    assert loss_curves.smoothed(*own, 1).tolist() == own[1].tolist()


def test_a_window_that_holds_one_line_is_said_not_drawn(runs, tmp_path, made):
    made.losses(tmp_path, runs.head(2), lines=8)
    drawing = loss_curves.draw(loss_curves.read(tmp_path, runs))
    assert "never holds two" in drawing.caption and len(drawing.figure.axes[0].lines) == 2
    assert drawing.figure.axes[1].get_xlim()[1] == 400_000                          # five lines, not a tenth that holds none


def test_each_term_has_a_row_and_lonely_models_are_left_out(mixed, tmp_path, made):
    made.losses(tmp_path, mixed)
    drawing = loss_curves.draw(loss_curves.read(tmp_path, mixed))
    rows = [axes.get_ylabel() for axes in drawing.figure.axes[::2]]
    assert rows == ["generative\nloss", "reconstruction\nloss", "generative full\nloss", "generative masked\nloss"]
    assert set(drawing.points["size"]) == {"pico"} and "Left out, with only one variant: DiT-atto/2" in drawing.caption
    assert "color for the training variant" in drawing.caption


def test_loss_curves_from_the_command_line(runs, tmp_path, monkeypatch, capsys, made):
    made.losses(tmp_path, runs)
    monkeypatch.setattr("ditscale.studies.table.ledger.collect_runs", lambda study: runs)
    assert loss_curves.main([str(tmp_path), "--window", "64000", "--where", "size=nano"]) == 0
    assert "a window of 64 k images" in (tmp_path / "analysis" / "loss_curves.txt").read_text()
    assert set(pd.read_csv(tmp_path / "analysis" / "loss_curves.csv")["size"]) == {"nano"}
    with pytest.raises(SystemExit):
        loss_curves.main([str(tmp_path), "--window", "-1"])
    monkeypatch.setattr("ditscale.studies.table.ledger.collect_runs", lambda study: runs.assign(formulation=["ddpm", "flow"] * 6))
    capsys.readouterr()
    assert loss_curves.main([str(tmp_path)]) == 2 and "mixes formulation" in capsys.readouterr().err
    monkeypatch.setattr("ditscale.studies.table.ledger.collect_runs", lambda study: runs.assign(resolution=[8, 16] * 6))
    assert loss_curves.main([str(tmp_path)]) == 2 and "mixes resolution" in capsys.readouterr().err
    with pytest.raises(UserError, match="has logged a loss yet"):
        loss_curves.read(tmp_path, runs.head(1).assign(run_id="other"))


def test_bars_are_per_accelerator_and_share_seeds(study, tmp_path):
    runs = study(seeds=(0, 1, 2)).drop_duplicates("run_id").assign(accelerators=4, mfu=0.42, device="NVIDIA H100")
    rates = np.where(runs["seed"] == 0, 400.0, np.where(runs["seed"] == 1, 800.0, 4000.0))
    found = throughput.bars(runs.assign(images_per_second=rates, peak_memory_bytes=2.0**31 * (1 + runs["seed"])))
    assert len(found) == 12 and set(found["images_per_second"]) == {200.0} and set(found["runs"]) == {3}
    assert set(found["peak_memory_gib"]) == {6.0}
    drawing = throughput.draw(runs)
    texts = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert all(text.endswith(" (42 %)") for text in texts)
    assert "measured on NVIDIA H100 (4 accelerators" in drawing.caption and "utilization" in drawing.caption
    assert same_again(lambda: throughput.draw(runs), tmp_path)


def test_settings_that_differ_name_their_bars(runs):
    one = runs[runs["model"] == "DiT-nano/2"]
    swept = pd.concat([one.assign(precision=precision, global_batch=batch) for precision in ("bf16", "fp32") for batch in (32, 64)])
    assert throughput.bars(swept)["label"].tolist() == ["nano/2 · batch 32 · bf16", "nano/2 · batch 32 · fp32",
                                                        "nano/2 · batch 64 · bf16", "nano/2 · batch 64 · fp32"]
    by_size = runs.assign(micro_batch=np.where(runs["size"] == "nano", 8, 32))       # one a model: no need to tell
    assert "nano/2" in throughput.bars(by_size)["label"].tolist()


def test_only_what_was_measured_is_drawn(runs):
    with pytest.raises(UserError, match="none of 12 runs has logged its speed yet"):
        throughput.draw(runs.assign(images_per_second=np.nan))
    with pytest.raises(UserError, match=r"mixes device: A100 \(6 rows\), H100 \(6 rows\)"):
        throughput.draw(runs.assign(device=["A100", "H100"] * 6))
    no_memory = throughput.draw(runs.assign(peak_memory_bytes=np.nan))
    assert {text.get_text() for text in no_memory.figure.axes[1].texts} == {"not logged"}
    half = runs.assign(images_per_second=runs["images_per_second"].where(runs["size"] == "nano"))
    assert len(throughput.bars(half)) == 3


def test_variants_of_a_model_stand_together(mixed):
    found = throughput.bars(mixed)
    own = found[found["model"] == "DiT-pico/2"]
    assert own["variant"].tolist() == ["baseline", "masked", "mdt"] and np.ptp(own.index) == 2
