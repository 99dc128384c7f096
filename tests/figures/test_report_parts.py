"""What the report says first, and of cost and passports: from a study's own files, whose truth is known."""

import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ditscale.cli import main as cli
from ditscale.config import resolve
from ditscale.cost.hardware import named_machine
from ditscale.cost.throughput import training_seconds
from ditscale.figures.kit import study_table
from ditscale.report import cards, deployment, explorer, forecast, page, passports, report, sources, tables, verdicts
from ditscale.studies.plan.probe import shape_of
from ditscale.studies.table import cells, conditions
from ditscale.studies.table.study import Study

MODELS = ("DiT-atto/2", "DiT-femto/2", "DiT-pico/2")


@pytest.fixture(scope="session")
def made(repository):
    spec = importlib.util.spec_from_file_location("made_study", repository / "benchmarks" / "made_study.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def three_seeds(made, tmp_path):
    made.write_study(tmp_path / "made", MODELS, ("baseline", "masked"), (0, 1, 2), evaluations=4)
    return tmp_path / "made"


def test_verdicts_are_those_of_the_study(three_seeds):
    """The words are Study.multiplier's; by construction masked needs 1.15 times the images, for fewer FLOPs each."""
    found = verdicts.read(study_table.read(three_seeds), three_seeds)
    own = Study.load(three_seeds).multiplier("masked")
    (name, told), frontier, noise = found.rows
    text = " ".join(f"{word} {sentence}" for word, sentence in told)
    assert name == "masked over baseline" and own.overall.verdict in text and f"multiplier {own.overall.value:.3g}" in text
    assert f"95 % interval {own.overall.interval.low:.3g} to {own.overall.interval.high:.3g}" in text and "3 and 3 seeds" in text
    assert frontier[0] == "Frontier" and frontier[1][0][0] == "" and "By variant:" in frontier[1][0][1]
    assert noise[0] == "Seed noise" and re.match(r"\d\.\d% of the score, from \d+ cells", noise[1][0][1])
    assert found.cards["Multiplier of masked over baseline in training FLOPs"]["status"] == "CONVERGED"


def test_the_share_of_scoring_is_of_scores_and_losses(three_seeds):
    """A loss counts 2 s, a score 10 s; the study trained for 100 s at each of its last evaluations."""
    scores = study_table.read(three_seeds)
    whole = pd.concat([scores, scores.assign(metric="loss")], ignore_index=True)
    last = whole.groupby("run_id")["images_seen"].transform("max") == whole["images_seen"]
    whole = whole.assign(evaluation_seconds=np.where(whole["metric"] == "loss", 2.0, 10.0), train_seconds=np.where(last, 100.0, 1.0))
    seconds, trained = 12 * len(scores), 100 * scores["run_id"].nunique()
    told = dict(tables.summary(whole[whole["metric"] != "loss"], whole))["Scoring time, all evaluations"]
    assert told.endswith(f", {seconds / (seconds + trained):.0%} of training and scoring")
    of_losses = dict(tables.summary(whole[whole["metric"] == "loss"], whole))
    assert "Held-out images drawn for each loss" in of_losses and not any(name.startswith(("Images generated", "Guidance")) for name in of_losses)
    assert dict(tables.summary(whole, whole.drop(columns="evaluation_seconds")))["Scoring time, all evaluations"] == "not known"


def test_a_verdict_is_of_the_models_with_seeds(made, tmp_path):
    """A further model with one seed would leave the verdict open; it is named as left out."""
    made.write_study(tmp_path / "made", MODELS[:2], ("baseline", "masked"), (0, 1, 2))
    [(_, before), *_] = verdicts.read(study_table.read(tmp_path / "made")).rows
    made.write_study(tmp_path / "made", MODELS[2:], ("baseline", "masked"), (0,))
    [(_, after), *_] = verdicts.read(study_table.read(tmp_path / "made")).rows
    note = f" Of {MODELS[0]}, {MODELS[1]}: other models have fewer than 3 seeds."
    assert "3 and 3 seeds" in before[0][1] and after == [(word, text + note) for word, text in before]


def test_turns_and_outliers_stand_in_the_verdicts(inputs):
    rows = dict(verdicts.read(study_table.read(inputs / "trust_early_win.csv")).rows)
    word, text = rows["masked over baseline"][0]
    assert word == "TURNS" and "it is cheaper up to a fid of" in text and "dearer from a fid of" in text
    rows = dict(verdicts.read(study_table.read(inputs / "trust_diverged.csv")).rows)
    told = " ".join(f"{word} {text}" for word, text in rows["masked over baseline"])
    assert "Outlier: run 'masked-s0' of masked scores 4 times" in told and "INCONCLUSIVE Without it: " in told
    assert "Without masked-s0, named below" in rows["Frontier"][0][1] and "Without it: seed noise 0.6%" in rows["Seed noise"][0][1]


def test_hopeless_data_is_told_so(made, tmp_path, table):
    made.write_study(tmp_path / "one", MODELS, ("baseline", "masked"), (0,), evaluations=3)
    rows = dict(verdicts.read(study_table.read(tmp_path / "one"), tmp_path / "one").rows)
    assert rows["masked over baseline"][0][0] == "INCONCLUSIVE" and "one seed gives no estimate" in rows["masked over baseline"][0][1]
    assert rows["Seed noise"][0][0] == rows["Frontier"][0][0] == "INCONCLUSIVE"
    old = verdicts.read(table)                                                 # a table of before there were recipes
    assert len(old.rows) == 1 and "no column 'recipe'" in old.rows[0][1][0][1]
    alone = study_table.read(tmp_path / "one").query("variant == 'masked'")
    assert "no variant 'baseline'" in dict(verdicts.read(alone).rows)["masked over baseline"][0][1]


def test_page_of_a_study_under_way(made, tmp_path):
    folder = tmp_path / "going"
    made.write_study(folder, MODELS, ("baseline", "masked"), part=0.5, evaluations=4)
    assert report.main([str(folder)]) == 0
    text = (folder / "analysis" / "report.html").read_text()
    assert "Study going, unfinished" in text and "No findings on scaling yet" in text and ">50 %</td>" in text
    assert text.count("has finished") <= 4                                     # a reason is told once, not once a figure


def test_forecasts_stand_beside_what_was_measured(made, tmp_path):
    made.write_study(tmp_path / "gpu", ("DiT-pico/2",), device="NVIDIA H100 80GB HBM3", evaluations=4)
    table = study_table.read(tmp_path / "gpu")
    files = sources.read(tmp_path / "gpu", table)
    one, = forecast.costs(files, table)
    config = resolve(files.records[one.run_id]["config"], "test")
    assert one.basis == "assumed" and one.forecast_hours == pytest.approx(training_seconds(config, named_machine("H100"), 0) / 3600)
    assert one.measured_hours == table["accelerator_hours"].max() and one.planned_flops == table["train_flops"].max()
    sampled = table["evaluation_flops"].sum()
    assert sampled > 0 and one.evaluation_share == pytest.approx(sampled / (sampled + one.planned_flops))
    both = pd.concat([table, table.assign(metric="loss", evaluation_flops=1e12)], ignore_index=True)    # a loss next to each score, whatever their order
    assert forecast.costs(files, both)[0].evaluation_share == forecast.costs(sources.Sources(), both)[0].evaluation_share == pytest.approx(
        (sampled + 1e12 * len(table)) / (sampled + 1e12 * len(table) + one.planned_flops))
    assert math.isnan(forecast.costs(files, table.drop(columns="evaluation_flops"))[0].evaluation_share)
    probes = {"NVIDIA H100 80GB HBM3": {shape_of(config): {"step_seconds": 0.5}}}
    (tmp_path / "gpu" / "probes.json").write_text(json.dumps(probes))
    one, = forecast.costs(sources.read(tmp_path / "gpu", table), table)
    assert one.basis == "probed" and one.forecast_hours == pytest.approx(0.5 * 320 / 3600)
    made.write_study(tmp_path / "cpu", ("DiT-pico/2",), evaluations=4)
    files, table = sources.read(tmp_path / "cpu", table := study_table.read(tmp_path / "cpu")), table
    assert math.isnan(forecast.costs(files, table)[0].forecast_hours)
    told = forecast.section(files, table, price=2.0)
    assert "never probed" in told and "Hours forecast" not in told and ">Money<" in told


def test_passports_say_where_they_differ(made, tmp_path):
    run_id, = made.write_study(tmp_path / "s", ("DiT-pico/2",), evaluations=2)
    path = tmp_path / "s" / run_id / "evals.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines += [{**lines[-1], "passport": {**lines[-1]["passport"], "guidance_scale": 4.0, "guide": "another run"}}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept = conditions.where(study_table.read(tmp_path / "s"), ["guidance_scale=1.5"])
    told = passports.section(kept, sources.read(tmp_path / "s", kept).passports)
    assert "Scores have 2 passports" in told and "guidance_scale 1.5 and 4.0" in told and "guide none and another run" in told
    assert "1 evaluation, not on this page" in told and "<dt>reference sha256</dt>" in told
    assert "All scores have one passport" in passports.section(kept, {})


def test_cards_read_as_lists():
    told = cards.definitions({"status": "<b>", "low": None, "value": 1 / 3, "ok": True, "targets": [{"target": 2.0, "seeds": [3, 3]}],
                              "many": list(range(40)), "empty": [], "inner": {"x": 1}})
    assert "&lt;b&gt;" in told and "<dd>none</dd>" in told and "0.33333" in told and "<td>3, 3</td>" in told and "and 24 more" in told
    assert "<dl><dt>x</dt><dd>1</dd></dl>" in told


@pytest.mark.parametrize("price", ["0", "-1", "nan"])
def test_a_price_is_above_zero(three_seeds, price, capsys):
    with pytest.raises(SystemExit) as ended:
        cli(["report", str(three_seeds), f"--price={price}"])
    assert ended.value.code == 2 and "--price" in capsys.readouterr().err
    assert not list((three_seeds / "analysis").glob("*"))


def test_price_reaches_the_page(made, tmp_path):
    made.write_study(tmp_path / "s", MODELS[:1], evaluations=2)
    with pytest.raises(SystemExit):
        cli(["report", str(tmp_path / "s"), "--price", "2.5"])
    text = (tmp_path / "s" / "analysis" / "report.html").read_text()
    assert json.loads(re.search(r'id="explorer-data">(.*?)</script>', text, flags=re.DOTALL)[1])["price"] == 2.5
    assert "ditscale report" in text and "--price=2.5" in text


def test_long_tables_and_large_files_are_cut_and_say_so():
    table = page.table(["run"], [(f"run-{i}",) for i in range(1234)])
    assert "run-299<" in table and "run-300<" not in table and "The first 300 of 1,234 rows; table.csv" in table
    links = page.downloads({"small.csv": b"a,b", "table.csv": bytes(9_000_000)})
    assert "small.csv</a>" in links and "next to it: table.csv (9 MB)" in links and len(links) < 1000


def test_the_explorer_shows_runs_of_every_model_where_there_are_too_many(three_seeds, monkeypatch):
    table = study_table.read(three_seeds)
    assert len(explorer.data(table, None)["runs"]) == 18
    monkeypatch.setattr(explorer, "MOST_RUNS", 7)
    data = explorer.data(table, None)
    assert {(run["model"], run["variant"]) for run in data["runs"]} == {(model, variant) for model in MODELS for variant in ("baseline", "masked")}
    assert len(data["runs"]) == 7 and "Shown are 7 of 18 runs; table.csv has all." in data["help"]


def test_training_and_sampling_together(three_seeds, monkeypatch):
    table = study_table.read(three_seeds)
    text = deployment.section(table)
    assert "On record are 2,000 images per run" in text and "is cheaper than" in text and 'id="deployment-data"' in text
    headers, rows = deployment.table(cells.cells(table))
    frontier = Study(Path("."), table).frontier(images_to_make=float(rows[-1][0].replace(",", "")))
    assert rows[0][0] == "0" and rows[0][2] == "0.0 %" and rows[-1][1] == f"{len(frontier.points)} of {len(frontier.cells)}" and len(rows) == 5
    shown = deployment.data(table, cells.cells(table))
    assert len(shown["cells"]) == len(frontier.cells) and "Shown are" not in shown["help"]
    monkeypatch.setattr(deployment, "MOST_CELLS", 10)
    fewer = deployment.data(table, cells.cells(table))
    assert len(fewer["cells"]) == 10 and f"Shown are 10 of {len(frontier.cells)} cells" in fewer["help"]


def test_there_is_no_such_section_of_one_model_or_unknown_costs(three_seeds):
    table = study_table.read(three_seeds)
    assert deployment.section(table[table["model"] == table["model"].iloc[0]]) == ""
    assert deployment.section(table.drop(columns="recipe")) == ""
    assert deployment.section(table.assign(forwards_per_image=np.nan, nfe=np.nan, evaluation_flops=np.nan)) == ""
    two = table.assign(recipe=np.where(table["seed"] == 1, "other", table["recipe"]))
    assert 'id="deployment"' in deployment.section(two)                          # the recipes are told apart, not mixed
    some = table.assign(macs=table["macs"].where(table["seed"] != 1))
    assert "not known: " in deployment.section(some)
