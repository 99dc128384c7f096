"""`ditscale predict` on run directories with a known law: on record before the target runs, checked after, altered lines found."""

import copy
import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.cost.runs import run_card
from ditscale.errors import UserError
from ditscale.figures.kit import study_table
from ditscale.rundir import RunDir
from ditscale.studies.predictions.check import outcomes, tally
from ditscale.studies.predictions.make import has_started, predict
from ditscale.studies.predictions.record import NAME, add, content_sha256, predictions
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.studies.table.ledger import collect

RUNGS, TARGET, IMAGES = ("DiT-atto/2", "DiT-femto/2", "DiT-pico/2", "DiT-nano/2"), "DiT-tiny/2", 16384
PASSPORTS = {"loss": {"metric": "loss", "samples": 512, "seed": 0}, "fd_digits_cnn": {"metric": "fd_digits_cnn", "samples": 512, "seed": 0}}


def true_loss(config, images):
    size = 2.0 * run_card(config).macs
    return 0.35 + 0.5 * (size / 1e6) ** -0.25 + 0.4 * (images / 1000) ** -0.45


def make_run(folder, values, model, seed, *, scores=True, sizes_differ=0.0, luck=0.003, state="done", checkpoints=8, length=IMAGES):
    """A run whose loss follows a surface, and its score the loss; ``sizes_differ`` makes the score depend on the size as well."""
    values = copy.deepcopy(values)
    values |= {"seed": seed, "model": {"name": model}}
    values["train"] |= {"images": length}
    config = resolve(values, "test")
    rng = np.random.default_rng([seed, length, *model.encode()])
    run, card = RunDir(folder / f"{model.replace('/', '-')}-s{seed}-{config.science_hash()}"), run_card(config)
    run.create({"config": json.loads(config.model_dump_json()), "cost": {
        "parameters": card.parameters, "tokens": card.tokens, "macs": card.macs, "train_flops_per_image": card.train_flops_per_image}})
    if state == "queued":
        return run
    lucks, lines = luck * rng.standard_normal(2) * (1, 4), []
    for images in (length * np.arange(1, checkpoints + 1) // checkpoints).tolist():
        loss = true_loss(config, images) * np.exp(lucks[0] + luck / 3 * rng.standard_normal())
        score = 2.0 + 30 * (loss - 0.2) ** 4 * (card.macs / 1e6) ** sizes_differ * np.exp(lucks[1] + 4 * luck * rng.standard_normal())
        for metric, value in [("loss", loss), ("fd_digits_cnn", score)][:1 + scores]:
            lines.append({"images_seen": images, "metric": metric, "passport": PASSPORTS[metric], "floor": None, "score": float(value)})
    run.metrics.write_text(json.dumps({"images_seen": length, "seconds": 1.0}) + "\n")
    run.evals.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.set_status(state, images_seen=length)
    return run


@pytest.fixture
def ladder(tmp_path, values):
    for model in RUNGS:
        for seed in range(3):
            make_run(tmp_path / "ladder", values, model, seed)
    return tmp_path / "ladder"


def run(*words):
    return CliRunner().invoke(main, ["predict", *map(str, words)])


def test_a_prediction_is_on_record_before_the_target_runs_and_holds_after(ladder, values):
    shown = run(ladder, "--target", TARGET)
    assert shown.exit_code == 0, shown.output
    assert "from 12 runs of DiT-atto/2, DiT-femto/2, DiT-pico/2, DiT-nano/2" in shown.output and "no prediction" not in shown.output
    assert max(map(len, shown.output.splitlines())) > 100                      # a pipe's lines are not broken at 80 columns
    assert re.search(r"by equal data: .* with E [\d.]+, .*; 12 runs", shown.output)
    [record] = predictions(ladder)
    assert record["after"] is False and record["sha256"] == content_sha256(record) and record["date"].endswith("+00:00")
    assert record["target"]["model"] == TARGET and record["target"]["images"] == IMAGES and len(record["rungs"]) == 12
    loss, score = record["predicted"]["loss"], record["predicted"]["score"]
    assert loss["way"] == "equal data" and score["how"] == "by loss" and loss["hold_out_of_last_rung"] and score["hold_out"]
    width = np.log(loss["high"] / loss["low"]) / 2
    assert width < 0.03
    assert "not run yet" in run(ladder, "--check").output
    for seed in range(3):
        make_run(ladder, values, TARGET, seed)
    table = collect(ladder)
    found = outcomes(predictions(ladder), table)
    assert [o.metric for o in found] == ["loss"] * 3 + ["fd_digits_cnn"] * 3 and {o.state for o in found} == {"inside"}
    assert tally(found) == "6 of 6 predicted values are inside their 95 % interval"
    checked = run(ladder, "--check")
    assert checked.exit_code == 0 and "6 of 6" in checked.output


def test_wrong_and_altered_predictions_are_shown_and_late_ones_count_for_nothing(ladder, values):
    made = predict(ladder, TARGET)
    low = {**made.record["predicted"]["loss"], "value": 0.1, "low": 0.09, "high": 0.11}
    add(ladder, {**made.record, "predicted": {"loss": low, "score": None}})
    make_run(ladder, values, TARGET, 0)
    late = run(ladder, "--target", TARGET)
    assert "has already run: this is marked and does not count as a prediction" in late.output
    path = ladder / NAME
    lines = path.read_text().splitlines()
    altered = {**json.loads(lines[0]), "date": "2020-01-01T00:00:00+00:00"}
    path.write_text("\n".join([*lines, json.dumps(altered)]) + "\n")
    found = outcomes(predictions(ladder), collect(ladder))
    assert [(o.state, o.remark) for o in found] == [
        ("outside", ""), ("inside", "made after the target had run: does not count"), ("inside", "made after the target had run: does not count"),
        ("outside", "altered: its hash does not match")]
    assert tally(found) == "0 of 1 predicted values are inside their 95 % interval"
    output = run(ladder, "--check").output
    assert "OUTSIDE" in output and "0 of 1" in output


def test_a_queued_target_has_not_started_and_a_running_one_has(ladder, values):
    queued = make_run(ladder, values, TARGET, 0, state="queued")
    assert not has_started(ladder, TARGET, "baseline")
    queued.set_status("running", images_seen=0)
    assert has_started(ladder, TARGET, "baseline") and not has_started(ladder, TARGET, "masked")


def test_where_sizes_differ_at_equal_loss_the_score_gets_its_own_law(tmp_path, values):
    for model in RUNGS:
        for seed in range(3):
            make_run(tmp_path / "two", values, model, seed, sizes_differ=-0.25)
    made = predict(tmp_path / "two", TARGET)
    assert made.score.how == "by its own law" and "loss does not determine the score here" in made.score.why_not
    assert "loss does not determine the score here" in run(tmp_path / "two", "--target", TARGET).output
    make_run(tmp_path / "two", values, TARGET, 0, sizes_differ=-0.25)
    add(tmp_path / "two", made.record)
    assert {o.state for o in outcomes(predictions(tmp_path / "two"), collect(tmp_path / "two"))} == {"inside"}


def test_a_study_without_loss_or_without_score_is_predicted_as_far_as_it_goes(ladder, tmp_path, values):
    for model in RUNGS:
        for seed in range(2):
            make_run(tmp_path / "loss", values, model, seed, scores=False)
    made = predict(tmp_path / "loss", TARGET)
    assert made.score is None and made.loss.way == "equal data"
    assert predict(ladder, TARGET, metric="loss").score is None
    for evals in ladder.glob("*/evals.jsonl"):
        evals.write_text("".join(line for line in evals.read_text().splitlines(keepends=True) if '"metric": "loss"' not in line))
    direct = predict(ladder, TARGET)
    assert direct.loss is None and direct.score.how == "by its own law" and direct.score.why_not == ""


@pytest.mark.parametrize("words, message", [
    (["--target", "DiT-atto/2"], "models smaller than DiT-atto/2"),
    (["--target", "DiT-tini/2"], "tini"),
    ([], "--target is missing"),
    (["--target", TARGET, "--images", "512", "--flops", "1e12"], "give --images or --flops, not both"),
    (["--target", TARGET, "--metric", "fd"], "--metric fd: no rung has it"),
    (["--target", TARGET, "--variant", "maskd"], "no evaluated run of variant 'maskd'"),
    (["--target", TARGET, "--rung", "DiT-S/2"], "rung DiT-S/2 has no evaluated run"),
    (["--target", TARGET, "--rung", "DiT-atto/2", "--rung", "DiT-pico/2"], "has 2 models smaller than DiT-tiny/2"),
    (["--target", "DiT-nano/4", *(word for model in RUNGS for word in ("--rung", model))], "is not smaller than DiT-nano/4"),
    (["--target", TARGET, "--pin", "E"], "give NAME=X"),
    (["--target", TARGET, "--pin", "A=3"], "'A' of the form chinchilla cannot be pinned"),
])
def test_what_cannot_be_predicted_is_one_line_and_leaves_no_record(ladder, words, message):
    shown = run(ladder, *words)
    assert shown.exit_code == 2 and shown.output.startswith("error: ") and message in shown.output and shown.output.count("\n") == 1
    assert not (ladder / NAME).exists()


def test_other_passports_are_not_mixed(ladder, values):
    evals = next(ladder.glob("*/evals.jsonl"))
    evals.write_text(evals.read_text().replace('"samples": 512', '"samples": 64'))
    shown = run(ladder, "--target", TARGET)
    assert shown.exit_code == 2 and "the table mixes passport" in shown.output
    assert run(ladder, "--target", TARGET, "--where", "samples=512").exit_code == 0   # losses have no samples, and stay
    line = json.loads((ladder / NAME).read_text())
    assert line["predicted"]["loss"] and line["predicted"]["score"]
    assert "samples is one of: 512 (176 rows), 64 (16 rows)" in run(ladder, "--target", TARGET, "--where", "samples=5").output


def test_a_ladder_with_one_length_is_predicted_from_the_sizes_alone(tmp_path, values):
    """Each run is scored once, at its end; images are those of a spec's ladder, in tokens per parameter."""
    from ditscale.studies.spec.ladder import Ladder, steps

    ladder = Ladder(rungs=list(RUNGS), target=TARGET, tokens_per_parameter=20, lengths=[1.0])
    *rungs, target = steps(ladder, values, "test")
    for step in rungs:
        for seed in range(2):
            make_run(tmp_path / "one", values, step.model, seed, checkpoints=1, length=step.images, scores=False)
    made = predict(tmp_path / "one", TARGET, images=target.images)
    assert made.loss.way == "equal ratio" and made.loss.fit.form == "y = E + A * x^-alpha" and made.loss.half_width < 0.05
    assert true_loss(resolve({**values, "model": {"name": TARGET}}, "test"), target.images) in made.loss.interval
    shown = run(tmp_path / "one", "--target", TARGET, "--images", str(2 * target.images))
    assert shown.exit_code == 2 and "equal ratio: 0 sizes trained as long; 3 are needed" in shown.output and shown.output.count("\n") == 1


def test_length_by_flops_is_whole_batches(ladder, values):
    by_images = predict(ladder, TARGET, images=IMAGES).target
    by_flops = predict(ladder, TARGET, flops=by_images.train_flops * 1.0001).target
    assert by_flops == by_images
    assert by_images.tokens_per_parameter == pytest.approx(IMAGES * 16 / by_images.parameters)


def test_the_report_shows_every_prediction_and_its_tally(ladder, values):
    from ditscale.report.predictions import section

    assert section(ladder, collect(ladder)) == "" and section(None, collect(ladder)) == ""
    add(ladder, predict(ladder, TARGET).record)
    assert "2 not run yet" in section(ladder, collect(ladder))
    make_run(ladder, values, TARGET, 0)
    html = section(ladder, collect(ladder))
    assert section(ladder, study_table.read(ladder)) == html                   # as the report's table is
    assert "2 of 2 predicted values are inside" in html and "DiT-tiny/2 baseline" in html and html.count("<tr>") == 3


def test_an_interval_that_says_nothing_is_not_recorded(ladder, monkeypatch):
    monkeypatch.setattr("ditscale.studies.predictions.make.WIDEST", 1.001)
    with pytest.raises(UserError, match="a prediction this wide is not recorded"):
        predict(ladder, TARGET)


def test_the_same_prediction_twice_counts_once(ladder, values):
    for _ in range(2):
        add(ladder, predict(ladder, TARGET).record)
    make_run(ladder, values, TARGET, 0)
    assert "2 of 2" in tally(outcomes(predictions(ladder), collect(ladder)))


def test_losses_of_other_draws_are_not_mixed_and_meet_no_prediction(ladder, values):
    add(ladder, predict(ladder, TARGET, metric="loss").record)
    target = make_run(ladder, values, TARGET, 0)
    assert [o.state for o in outcomes(predictions(ladder), collect(ladder))] == ["inside"]
    target.evals.write_text(target.evals.read_text().replace('"seed": 0', '"seed": 1'))
    assert [o.state for o in outcomes(predictions(ladder), collect(ladder))] == ["not run yet"]
    rung = next(ladder.glob("DiT-atto*/evals.jsonl"))
    rung.write_text(rung.read_text().replace('"seed": 0', '"seed": 1'))
    assert "the table mixes sample_seed" in run(ladder, "--target", TARGET).output


def test_a_ladders_target_and_length_are_the_specs(tmp_path, values):
    import yaml

    values = {name: value for name, value in values.items() if name not in ("model", "seed")}
    values["train"] = {name: value for name, value in values["train"].items() if name != "images"}
    ladder = {"rungs": list(RUNGS), "target": TARGET, "tokens_per_parameter": 0.5, "lengths": [0.5, 1, 2]}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "name": "ladder", "metric": {"name": "fd_digits_cnn"}, "config": values, "ladder": ladder,
                                    "runs_dir": str(tmp_path)}))
    planned = expand(load_spec(str(path)), str(path))
    for one in planned:
        if one.phase == "rungs":
            make_run(tmp_path / "ladder", one.config.model_dump(mode="json"), one.config.model.name, 0, length=one.config.train.images)
    shown = run(path)
    assert shown.exit_code == 0, shown.output
    [record] = predictions(tmp_path / "ladder")
    assert record["target"]["model"] == TARGET and record["target"]["images"] == planned[-1].config.train.images
    assert record["target"]["tokens_per_parameter"] == pytest.approx(0.5, rel=0.01) and record["predicted"]["loss"]["way"] == "surface"
    make_run(tmp_path / "ladder", planned[-1].config.model_dump(mode="json"), TARGET, 0, length=planned[-1].config.train.images)
    assert "2 of 2 predicted values are inside" in run(path, "--check").output


def test_a_study_that_is_published_as_its_table_keeps_its_predictions_and_report(ladder, values, tmp_path):
    """A folder with the table of `collect` and predictions.jsonl, and no run directory."""
    assert run(ladder, "--target", TARGET).exit_code == 0
    for seed in range(3):
        make_run(ladder, values, TARGET, seed)
    landed = tmp_path / "studies" / "ladder"
    assert CliRunner().invoke(main, ["collect", str(ladder), "--out", str(landed / "table.csv")]).exit_code == 0
    shutil.copy(ladder / NAME, landed)
    assert run(landed, "--check").output == run(ladder, "--check").output
    made = CliRunner().invoke(main, ["report", str(landed)])
    assert made.exit_code == 0, made.output
    page = (landed / "analysis" / "report.html").read_text()
    assert "Predictions" in page and "DiT-tiny/2" in page and page.count("inside") >= 1
    (landed / "table.csv").unlink()
    refused = CliRunner().invoke(main, ["report", str(landed)])
    assert refused.exit_code == 2 and "no run (no */run.json) and no table.csv" in refused.output


def test_a_prediction_from_a_landed_table_is_that_of_the_run_directories(tmp_path, values):
    """Parts of a study lose their run directories; the study file has the configs."""
    import yaml

    spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "runs_dir": str(tmp_path / "runs"),
            "config": {**{name: value for name, value in values.items() if name != "model"}, "train": {**values["train"], "images": IMAGES}},
            "parameters": {"model.name": {"values": [*RUNGS, TARGET]}, "seed": {"values": [0, 1, 2]}}}
    path, folder, landed = tmp_path / "spec.yaml", tmp_path / "runs" / "study", tmp_path / "landed"
    path.write_text(yaml.safe_dump(spec))
    targets = []
    for one in expand(load_spec(str(path)), str(path)):
        if one.config.model.name == TARGET:
            targets.append(one)
        else:
            make_run(folder, values, one.config.model.name, one.config.seed).path.rename(folder / one.run_id)
    assert CliRunner().invoke(main, ["collect", str(folder), "--out", str(landed / "table.csv")]).exit_code == 0
    assert run(path, "--target", TARGET).exit_code == run(path, "--target", TARGET, "--landed", landed).exit_code == 0
    [own], [from_table] = predictions(folder), predictions(landed)
    assert own["predicted"] == from_table["predicted"] and own["rungs"] == from_table["rungs"] and own["target"] == from_table["target"]
    assert own["after"] is from_table["after"] is False
    make_run(folder, values, TARGET, 0).path.rename(folder / targets[0].run_id)                     # begun, and not landed
    assert run(path, "--target", TARGET, "--landed", landed).exit_code == 0 and predictions(landed)[-1]["after"] is True

    assert "give the study file, `ditscale predict SPEC --landed" in run(landed, "--target", TARGET).output
    assert "needs the study file" in run(landed, "--target", TARGET, "--landed", landed).output
    assert "no file" in run(path, "--target", TARGET, "--landed", folder).output
    path.write_text(yaml.safe_dump({**spec, "parameters": {"model.name": {"values": [TARGET]}}}))
    assert "that is not in the study file" in run(path, "--target", TARGET, "--landed", landed).output
