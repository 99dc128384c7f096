"""Each script of ``analysis/`` on a CSV without each of its columns in turn: it works or says in one line what it needs, and no caption,
label or card holds "nan". Pictures are laid out and not rendered: a missing column is met before."""

import importlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from ditscale.figures.kit import labels, style
from ditscale.studies.table import csv_defaults, csv_table, ledger

ANALYSIS = Path(__file__).parents[2] / "analysis"
SCRIPTS = sorted(path.stem for path in ANALYSIS.glob("*.py"))
# Of the ledger's columns those that something reads of a CSV; the others are taken away all at once, with these.
COLUMNS = sorted({*csv_table.TEXT, *csv_table.NUMBERS, *csv_defaults.SETTINGS, "final", "values.sfid"} & {*ledger.COLUMNS, "values.sfid"}
                 - set(csv_defaults.NEEDED))
NOTHING = re.compile(r"(?<![\w'])(nan|NaN|None|inf)(?![\w'])")
# What a figure may be about: without it, it may say so. Without any other column it draws.
MAY_STOP = {"macs", "parameters", "train_flops", "train_flops_per_image", "variant", "block", "nfe", "guidance_scale", "passport_fields", "lr",
            "sample_sheet", "seed", "run_id", "images_seen", "accelerator_hours"}
OFTEN = {"block", "parameters", "macs", "samples", "nfe", "passport", "passport_fields", "recipe", "floor", "seed", "final", "patch_size"}
RUNS_ALONE = ("loss_curves",)                                          # reads what runs logged


def base(script: str, study, made, sheets: Path) -> pd.DataFrame:
    """The smallest table on which the script draws something."""
    table = made.metrics(study(sheets if script == "samples" else None, seeds=(0, 1)))
    table = table[table["model"].isin(["DiT-femto/4", "DiT-pico/4", "DiT-femto/2", "DiT-pico/2"]) & (table["images_seen"] > 100_000)]
    if script == "block_designs":
        table = made.blocks(study())
    if script in ("sweeps", "learning_rate"):
        table = made.sweep(study(), [1e-4, 1e-3, 1e-2], 1e-3)
    if script == "critical_batch":
        table = pd.concat([table.assign(run_id=table["run_id"] + f"-{batch}", global_batch=batch, score=table["score"] * (1 + batch / 1000))
                           for batch in (32, 64, 128)])
        table = table.assign(critical_batch=table["images_seen"] / 1e4, critical_batch_adam=90.0, micro_batch=8)
    if script == "sampling_compute":
        table = pd.concat([made.passport(table.assign(score=table["score"] + 10 / n), nfe=n) for n in (4, 8)])
    if script in ("variants", "cost_quality", "report", "methods"):
        masked = table.assign(variant="masked", run_id=table["run_id"] + "-masked", train_flops=table["train_flops"] * 0.7, score=table["score"] * 1.1)
        table = pd.concat([table, masked])
    if script == "validation":
        table = table.assign(metric="loss", score=table["score"] / 40,
                             **{f"values.loss_bucket_{index}": table["score"] / (30 + 4 * index) for index in range(10)})
    if script == "branches":
        table = pd.concat([table.assign(trunk=table["run_id"], branch_images=0),
                           table.assign(trunk=table["run_id"], branch_images=table["images_seen"] * 4 // 5, run_id=table["run_id"] + "-branch", final=True,
                                        score=table["score"] * 0.9)])
        table = pd.concat([table, table[table["branch_images"] == 0].assign(images_seen=10 * table["images_seen"].max())])
    if script == "isoflop":
        rows = []
        for budget in (1e12, 4e12):
            for i, factor in enumerate(np.geomspace(0.4, 2.5, 4)):
                images = round((budget / 1e12) ** 0.5 * 1e6 / factor)
                rows.append({**table.iloc[0].to_dict(), "run_id": f"b{budget:g}-{i}", "model": f"DiT-n{i}/2", "images_seen": images, "final": True,
                             "train_flops": budget, "score": 20 * (budget / 1e12) ** -0.2 * np.exp(0.3 * np.log(factor) ** 2)})
        table = pd.DataFrame(rows)
    return table.assign(recipe=table["model"] + table["variant"] + table["block"] + table["lr"].astype(str),
                        accelerator_hours=table["train_seconds"] / 3600).rename(columns={"sample_seeds": "sample_seed"})


@pytest.fixture(scope="module")
def tables(study, made, tmp_path_factory):
    """Of each script, its table."""
    sheets = tmp_path_factory.mktemp("sheets")
    kept = {}
    return lambda script: kept.setdefault(script, base(script, study, made, sheets)).copy()


@pytest.fixture
def light(monkeypatch):
    """Lays no label and renders no picture; keeps every text that is drawn."""
    texts = []

    def save(drawing, out, formats=style.DEFAULT_FORMATS):
        texts.extend(text.get_text() for text in drawing.figure.findobj(Text))
        texts.append(drawing.caption)
        pictures = [out / f"{drawing.name}.{kind}" for kind in formats]
        for path in pictures:
            path.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>')      # the report reads it back
        return [*pictures, *real(drawing, out, ())]

    real = style.save
    monkeypatch.setattr(style, "save", save)
    monkeypatch.setattr(style, "freeze", lambda figure: None)
    monkeypatch.setattr(labels, "place", lambda *given, **options: None)
    monkeypatch.setattr(labels, "stack", lambda *given, **options: None)
    return texts


def run(script: str, table: pd.DataFrame, folder: Path, capsys, texts: list[str], *arguments) -> tuple[int, str]:
    """The exit code and what was said of an error, after checking all that was written."""
    path, out = folder / "table.csv", folder / "out"
    table.to_csv(path, index=False)
    more = ["--over", "lr"] if script == "sweeps" else []
    code = importlib.import_module(f"ditscale.{'report' if script == 'report' else 'figures.plots'}.{script}").main(
        [str(path), "--out", str(out), *more, *arguments])
    error = capsys.readouterr().err
    assert code in (0, 2) and error.count("\n") == (code == 2), error
    written = [file.read_text() for file in sorted(out.glob("*.txt")) + sorted(out.glob("*.json"))] if out.is_dir() else []
    for text in (*texts, error, *written):
        assert not NOTHING.search(text), text
    assert code == 0 or len(error) < 600
    return code, error


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_whole_table_is_drawn(script, tables, light, tmp_path, capsys):
    code, error = run(script, tables(script), tmp_path, capsys, light)
    assert (code, "needs the run directories themselves" in error) == ((2, True) if script in RUNS_ALONE else (0, False)), error


@pytest.mark.parametrize("column", [column if column in OFTEN else pytest.param(column, marks=pytest.mark.slow) for column in COLUMNS])
@pytest.mark.parametrize("script", [pytest.param(script, marks=pytest.mark.slow) if script == "report" else script
                                    for script in SCRIPTS if script not in RUNS_ALONE])
def test_a_missing_column_is_a_default_or_one_line(script, column, tables, light, tmp_path, capsys):
    table = tables(script).drop(columns=column, errors="ignore")
    code, error = run(script, table, tmp_path, capsys, light)
    assert code == 0 or column in MAY_STOP or (script, column) == ("validation", "metric"), error


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script not in (*RUNS_ALONE, "report", "sampling_compute", "sweeps", "block_designs")])
def test_a_plain_csv_is_drawn_or_told_in_one_line(script, tables, light, tmp_path, capsys):
    """The least that docs/csv.md asks for, with the costs."""
    table = tables(script)
    lengths = ["run_id"] if script == "isoflop" else []                 # models trained to two lengths, each a run
    table = table[["model", "variant", "seed", "images_seen", "train_flops", "score", *lengths]]
    code, error = run(script, table, tmp_path, capsys, light)
    not_a_score = ("bubbles", "gflops", "samples", "metrics", "power_law", "validation", "learning_rate", "branches", "critical_batch", "methods", "throughput")
    assert code == 0 or script in not_a_score, error
