"""A metric is a line of the table: a made-up one is scored, written, shown and drawn, and nothing else was told."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import ditscale
from ditscale.cli import main
from ditscale.data.beton import BetonFile
from ditscale.evaluation.extractors.digits_cnn import load_digits_cnn
from ditscale.evaluation.metrics import table
from ditscale.figures.plots.metrics import held_by
from ditscale.rundir import read_lines

PACKAGE = Path(ditscale.__file__).parent


def spread(found):
    """The features' total variance over that of the reference's."""
    return float(np.var(found.features, axis=0).sum() / np.trace(found.reference.covariance)), float(len(found.real_features))


MADE_UP = table.Metric("spread", frozenset({table.FEATURES, table.REAL_IMAGES}), spread,
                       (table.Value("spread", "Spread", higher_is_better=True, row=2), table.Value("spread_images", detail=True)))


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(table, "METRICS", [*table.METRICS, MADE_UP])


def evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_a_made_up_metric_is_scored_shown_and_drawn(made_up, hand_run, digits_values):
    digits_values["evaluation"].update(samples=40, sampling_steps=2)
    run = hand_run({"evaluation": digits_values["evaluation"], "data": digits_values["data"], "model.name": "DiT-atto/8"})
    said = evaluate(run.path, "also=[spread,is]")
    assert said.exit_code == 0, said.output
    [line] = read_lines(run.evals)
    assert list(line["values"]) == ["is", "is_std", "spread", "spread_images"] and line["values"]["spread"] > 0
    [told] = [text for text in said.output.splitlines() if text.startswith("images ")]
    shown = said.output.replace(told, "")                                      # the table below
    assert "spread" in shown and "spread_images" not in shown and "is_std" not in shown
    evaluate(run.path, "also=[spread]")                                        # it stands
    assert len(read_lines(run.evals)) == 1
    rows = pd.DataFrame([{"metric": line["metric"], **{f"values.{name}": value for name, value in line["values"].items()}}])
    assert held_by(rows) == {"score": ("fd_digits_cnn", False, True), "values.spread": ("Spread", True, False),
                             "values.is": ("Inception Score", True, False)}


def test_what_a_made_up_metric_needs_is_asked_for(made_up, hand_run, digits_values, digits, tmp_path):
    held = BetonFile(digits / "heldout.beton")
    features = load_digits_cnn(digits / "digits_cnn.safetensors")(torch.from_numpy(held.read("image", np.arange(99)))).pooled.numpy()
    np.savez(tmp_path / "statistics.npz", mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False))
    run = hand_run({"evaluation": digits_values["evaluation"], "data": digits_values["data"], "model.name": "DiT-atto/8"})
    said = evaluate(run.path, "also=[spread]", f"reference_path={tmp_path / 'statistics.npz'}").output
    assert "kid and precision_recall and spread compare with real images" in said and "give images" in said
    said = evaluate(run.path, "also=[spred]").output
    assert "evaluation.also has 'spred'" in said and "did you mean 'spread'" in said


def test_no_other_file_of_evaluation_names_a_metric():
    names = {metric.name for metric in table.METRICS} | {value.name for value in table.values()}
    names -= {"precision"}                                                     # also a passport field: of the numbers
    for path in (PACKAGE / "evaluation").rglob("*.py"):
        found = {node.value for node in ast.walk(ast.parse(path.read_text()))
                 if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names}
        assert not found or path.name == "table.py", (path, found)
