"""``plan --power``: which comparisons a study makes, and where its noise comes from."""

import json
import math

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.cost.runs import training_flops
from ditscale.errors import UserError
from ditscale.scaling.power import smallest
from ditscale.studies.plan.comparisons import comparisons
from ditscale.studies.plan.power import given, power_table
from ditscale.studies.spec.spec import expand, load_spec


@pytest.fixture
def study(tmp_path, values):
    """``study(parameters, ...)``: a spec and its runs."""
    def write(parameters, **parts):
        spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values, "parameters": parameters,
                "runs_dir": str(tmp_path / "runs"), **parts}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        loaded = load_spec(tmp_path / "spec.yaml")
        return tmp_path / "spec.yaml", loaded, expand(loaded, "spec")
    return write


SEEDS = {"seed": {"values": [0, 1, 2]}}


@pytest.fixture
def finished(study):
    """The folder of a study of three seeds and two checkpoints, with a score that falls as images^-0.5 and 2 % noise of a run."""
    _, spec, runs = study(SEEDS, name="earlier")
    for planned, luck in zip(runs, (-0.02, 0.0, 0.02)):
        planned.run.create({"config": planned.config.model_dump(mode="json"), "cost": {
            "parameters": 1, "tokens": 4, "macs": 10, "train_flops_per_image": 60}})
        lines = [{"images_seen": images, "metric": "fd_digits_cnn", "score": 100 * images**-0.5 * math.exp(luck), "passport": {"samples": 16}}
                 for images in (320, 640)]
        planned.run.evals.write_text("".join(json.dumps(line) + "\n" for line in lines))
        planned.run.set_status("done", images_seen=640)
    return spec.directory


def test_the_noise_of_a_finished_study(finished):
    found = given(str(finished), "fd_digits_cnn")
    assert found.sigma == pytest.approx(0.02) and found.luck_share == pytest.approx(1) and found.slope == pytest.approx(0.5)
    assert found.upper == pytest.approx(0.02 * math.sqrt(2 / 0.05064), rel=1e-3)        # chi-square with 2 degrees of freedom


def test_each_variant_is_compared_with_the_plain_one_of_its_model_and_length(study):
    bundles = {"kind": {"plain": {"objective.name": "baseline"}, "m": {"objective.name": "masked"}, "d": {"objective.name": "mdt"}}}
    _, spec, runs = study({**SEEDS, "train.images": {"values": [640, 1280]}}, bundles=bundles, exclude=[{"kind": "d", "seed": 2}])
    found, alone = comparisons(runs, spec.metric.name)
    assert not alone
    assert [(one.images, one.names, one.baseline, one.seeds) for one in found] == [
        (images, names, "baseline", seeds) for images in (640, 1280) for names, seeds in ((("mdt",), (2, 3)), (("masked",), (3, 3)))]
    assert len(found[0].costs) == 2 and found[0].costs[1] == 2 * found[0].costs[0]
    table, lines = power_table(spec, runs, given("2%", "fd_digits_cnn"))
    score = list(table.columns[4].cells)
    assert any("both need the noise of a finished study" in line for line in lines)
    assert score == ["none", f"{math.expm1(-smallest(0.02, (3, 3))):+.1%}"] * 2 and "Fewer than 3 give no interval" in lines[1]


def test_a_curve_of_branches_is_through_the_ends_of_a_trunks_lengths(study, values):
    del values["train"]["images"]
    values["train"] |= {"branches": [320, 640, 1280], "lr_schedule": "wsd"}
    _, spec, runs = study(SEEDS, bundles={"kind": {"a": {"objective.name": "baseline"}, "b": {"objective.name": "masked"}}})
    found = {one.images: one.costs for one in comparisons(runs, spec.metric.name)[0]}
    assert found[320] == found[640] == () and [cost / found[1280][0] for cost in found[1280]] == [1, 2, 4]


def test_recipes_of_one_variant_are_compared_too(study):
    _, spec, runs = study({**SEEDS, "train.lr": {"values": [1e-3, 2e-3]}})
    [one], _ = comparisons(runs, spec.metric.name)
    assert one.names == ("baseline (lr 0.002)",) and one.baseline == "baseline (lr 0.001)" and one.seeds == (3, 3)


METHODS = {"method": {"baseline": {}, "masked": {"objective.name": "masked"}, "wider": {"model.mlp": "swiglu"}, "rms": {"model.norm": "rms"},
                      "mdt": {"objective.name": "mdt"}}}


def test_methods_of_one_budget_are_compared_at_equal_flops_whatever_their_images(study, values):
    del values["train"]["images"]
    _, spec, runs = study({**SEEDS, "train.flops": {"values": [1e10, 4e10]}}, bundles=METHODS)
    images = {planned.config.train.images for planned in runs}
    assert len(images) > 2                                                     # some share the baseline's, others do not
    found, alone = comparisons(runs, spec.metric.name)
    assert not alone and [(one.images, set(one.names), one.baseline) for one in found] == 2 * [
        (None, {"masked", "mdt", "baseline (wider)", "baseline (rms)"}, "baseline")]
    batch = max(training_flops(planned.config, planned.config.train.global_batch) for planned in runs)
    for one, budget in zip(found, (1e10, 4e10)):
        assert budget - batch < one.flops <= budget and 0 < one.spread < batch / (budget - batch)
    table, lines = power_table(spec, runs, given("2%", "fd_digits_cnn"))
    assert [column.header for column in table.columns][:3] == ["model", "equal FLOPs", "compared"] and "images differ" in lines[2]


def test_what_no_recipe_equals_is_named(study):
    masked = {"objective.name": "masked", "seed": 0}
    _, spec, runs = study({**SEEDS, "train.images": {"values": [640, 6400]}, "train.lr": {"values": [1e-3, 2e-3]}},
                          include=[{**masked, "train.images": 2560}])
    found, alone = comparisons(runs, spec.metric.name)
    assert [(one.images, one.names, one.baseline) for one in found] == [(images, ("baseline (lr 0.002)",), "baseline (lr 0.001)") for images in (640, 6400)]
    assert alone == ["masked of DiT-atto/4 at 2,560 images"]
    _, lines = power_table(spec, runs, given("2%", "fd_digits_cnn"))
    assert sum("Compared with nothing" in line and "masked of DiT-atto/4 at 2,560 images" in line for line in lines) == 1


def test_a_run_of_other_images_is_compared_if_its_flops_are_equal(study):
    cost = {"baseline": 0.0, "masked": 0.0}
    for name in cost:
        _, _, [planned] = study({"objective.name": {"value": name}})
        cost[name] = training_flops(planned.config, 640) / 640
    images = round(6400 * cost["baseline"] / cost["masked"] / 64) * 64
    assert images != 6400
    _, spec, runs = study(SEEDS, include=[{"seed": seed, "objective.name": "masked", "train.images": images} for seed in range(3)]
                          + [{"seed": seed, "train.images": 6400} for seed in range(3)])
    [one], alone = comparisons(runs, spec.metric.name)
    assert (one.images, one.names, one.baseline, one.seeds) == (None, ("masked",), "baseline", (3, 3)) and one.spread < 0.02
    assert alone == ["baseline of DiT-atto/4 at 640 images"]


def test_plan_shows_it(study, finished, repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setattr("ditscale.studies.plan.power.smallest_multiplier", lambda course, seeds: 1 + course.slope)
    path, *_ = study(SEEDS, bundles={"kind": {"plain": {"objective.name": "baseline"}, "m": {"objective.name": "masked"}}})
    said = CliRunner().invoke(main, ["plan", str(path), "--power", str(finished)], env={"COLUMNS": "160"})
    assert said.exit_code == 0 and f"{math.expm1(-smallest(0.02, (3, 3))):+.1%}" in said.output and " 1.5" in said.output
    assert "masked against baseline" in said.output and "100% of it common to a run's checkpoints" in " ".join(said.output.split())
    alone, *_ = study(SEEDS)
    said = CliRunner().invoke(main, ["plan", str(alone), "--power", "0.02"])
    assert "Noise of" not in said.output
    assert "No model has two recipes of equal images or equal training FLOPs: this study compares nothing" in " ".join(said.output.split())


@pytest.mark.parametrize("power, words", [
    ("nothing", "no such study; give the folder of a finished study"),
    ("200%", "must be 0.0001 or more and below 1"),
    ("1e-9", "must be 0.0001 or more and below 1"),
    ("nan", "must be 0.0001 or more and below 1"),
    ("0", "must be 0.0001 or more and below 1"),
    ("-2%", "must be 0.0001 or more and below 1"),
    ("setup.cfg", "is a file; give the folder of a finished study"),
])
def test_what_is_wrong_is_one_line(study, repository, monkeypatch, power, words):
    monkeypatch.chdir(repository)
    path, *_ = study(SEEDS)
    said = CliRunner().invoke(main, ["plan", str(path), "--power", power])
    assert said.exit_code and words in said.output and said.output.count("\n") == 1


def test_another_metric_than_the_specs_is_said_with_those_there(finished):
    with pytest.raises(UserError, match="it has no loss, the metric of the planned study, but fd_digits_cnn; give a study that has it, set metric.name"):
        given(str(finished), "loss")


def test_a_study_without_repetitions_has_no_noise(finished, study):
    for run in list(finished.iterdir())[1:]:
        (run / "evals.jsonl").unlink()
    with pytest.raises(Exception, match="a study with several seeds of a recipe has it"):
        given(str(finished), "fd_digits_cnn")
