"""The notebook's way in, on run directories with known scores: three seeds of two variants."""

import copy
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import ditscale
from ditscale.config import resolve
from ditscale.cost.runs import run_card, training_flops
from ditscale.errors import UserError
from ditscale.rundir import RunDir
from ditscale.studies.table.sampling_cost import flops_per_image, images_of_evaluations, require_flops_per_image, with_image_costs
from ditscale.studies.table.study import Study

PASSPORT = {"metric": "fd_digits_cnn", "samples": 64, "guidance_scale": 1.0, "nfe": 5, "seed": 0}
IMAGES, HOURS = (1024, 2048, 4096, 8192), 1e-6                                 # accelerator-hours an image of the baseline
LUCK, WOBBLE = 0.01, 0.002


def make_run(folder, values, variant, seed, *, model="DiT-femto/2", luck=None, passport=PASSPORT, logged=(1000, 3000, 8192), **train):
    """A finished run whose score is a power law of its training FLOPs; masked training takes 1.5 times the time."""
    values = copy.deepcopy(values)
    values |= {"seed": seed, "model": {"name": model}, "objective": {"name": variant}}
    values["train"] |= {"images": IMAGES[-1], **train}
    config = resolve(values, "test")
    rng = np.random.default_rng([seed, len(variant)])
    luck = LUCK * rng.standard_normal() if luck is None else luck
    run = RunDir(folder / f"{model.replace('/', '-')}-{variant}-s{seed}-{config.science_hash()}")
    card, hours = run_card(config), HOURS * (1.5 if variant == "masked" else 1.0)
    run.create({"config": json.loads(config.model_dump_json()), "cost": {
        "parameters": card.parameters, "tokens": card.tokens, "macs": card.macs, "train_flops_per_image": card.train_flops_per_image}})
    run.metrics.write_text("".join(json.dumps({"images_seen": seen, "seconds": 3600 * hours * (seen - before) / 2,
                                               "accelerator_hours": hours * seen}) + "\n"
                                   for before, seen in zip((0, *logged), logged)))      # two ranks
    run.evals.write_text("".join(json.dumps({
        "images_seen": seen, "metric": "fd_digits_cnn", "passport": passport, "floor": 1.0,
        "score": 40 * (training_flops(config, seen) / 1e9) ** -0.4 * np.exp(luck + WOBBLE * rng.standard_normal())}) + "\n"
        for seen in IMAGES))
    run.set_status("done", images_seen=IMAGES[-1])
    return run


@pytest.fixture
def study(tmp_path, values):
    for variant in ("baseline", "masked"):
        for seed in range(3):
            make_run(tmp_path / "study", values, variant, seed)
    return Study.load(tmp_path / "study")


def test_the_multiplier_in_three_currencies(study):
    """Scores follow FLOPs alone, so the FLOPs multiplier is 1; in hours it is what masked images cost more in time than in FLOPs."""
    flops = study.multiplier("masked")
    assert 1.0 in flops.overall.interval and flops.overall.verdict == "INCONCLUSIVE" and flops.overall.seeds == (3, 3)
    table = study.table()
    cost = table.groupby("variant")["train_flops_per_image"].first()
    truth = (cost["masked"] / cost["baseline"]) / 1.5
    hours, money = study.multiplier("masked", cost="accelerator_hours"), study.multiplier("masked", cost="money", price=2.5)
    assert truth in hours.overall.interval and hours.overall.verdict == "REAL" and "accelerator-hours" in hours.sentence
    assert money.overall.value == pytest.approx(hours.overall.value)
    assert money.targets[0].baseline_cost == pytest.approx(2.5 * hours.targets[0].baseline_cost)
    pooled = study.multiplier("masked", pool_noise=True)
    assert pooled.overall.freedom == study.noise().freedom == 4


def test_hours_have_no_verdict_where_seeds_of_one_recipe_had_other_speeds(study):
    """A machine that others used for one seed makes that seed dear; FLOPs do not know of it."""
    rows = study.rows.assign(images_per_second=np.where(study.rows["seed"] == 0, 100.0, 120.0))
    assert Study(study.path, rows).multiplier("masked", cost="accelerator_hours").overall.verdict == "REAL"
    rows.loc[(rows["seed"] == 1) & (rows["variant"] == "masked"), "images_per_second"] = 50.0
    found = Study(study.path, rows).multiplier("masked", cost="accelerator_hours")
    assert found.overall.verdict == "INCONCLUSIVE" and found.course is None
    assert "seeds of DiT-femto/2 masked were trained at speeds 2.4 times apart" in found.sentence
    assert "times apart" not in Study(study.path, rows).multiplier("masked").sentence


def test_hours_are_those_at_the_checkpoint_and_not_at_the_last_line_before_it(study):
    table = study.table()
    rate = np.where(table["variant"] == "masked", 1.5, 1.0) * HOURS
    assert table["accelerator_hours"].to_numpy() == pytest.approx(rate * table["images_seen"])
    assert table["train_seconds"].to_numpy() == pytest.approx(3600 * rate * table["images_seen"] / 2)


def test_frontier_and_time_to_quality(study):
    found = study.frontier()
    assert len(found.cells) == 8 and all(len(cell.runs) == 3 for cell in found.cells) and found.noise.freedom == 4
    assert found.score_unit == "fd_digits_cnn" and found.cells[-1].on_frontier
    table = study.table()
    reached = study.time_to_quality(float(table["score"].median()), model="DiT-femto/2", cost="train_flops")
    assert reached.interval is not None and reached.cost in reached.interval
    assert study.time_to_quality(1e-3, model="DiT-femto/2", variant="masked").status.name == "NOT_REACHED"


def losses(study, floor=0.5, exponent=0.2, faster=1.7):
    """The study with a loss that follows a law of training FLOPs instead of the score; masked training is ``faster``."""
    rows = study.table()
    flops = rows["train_flops"] / 1e9 * np.where(rows["variant"] == "masked", faster, 1.0)
    luck = rows["run_id"].map({run: 0.0003 * (index % 3 - 1) for index, run in enumerate(sorted(rows["run_id"].unique()))})
    return Study(study.path, rows.assign(metric="loss", score=(floor + 8 * flops**-exponent) * np.exp(luck)))


def test_the_speedup_at_equal_cost_is_the_closed_form_with_an_interval(study):
    study = losses(study)
    [(model, found)] = study.speedup("masked", floor=0.5, exponent=0.2).items()
    assert model == "DiT-femto/2" and found.seeds == (3, 3) and found.verdict == "REAL"
    assert found.value == pytest.approx(1.7, rel=0.005) and 1.7 in found.interval
    rows = study.table()
    rows = rows[rows["images_seen"] == IMAGES[-1]]
    by_images = study.speedup("masked", floor=0.5, exponent=0.2, cost="images_seen")[model]
    excess = [np.log(rows[rows["variant"] == variant]["score"] - 0.5).mean() for variant in ("baseline", "masked")]
    assert by_images.value == pytest.approx(np.exp((excess[0] - excess[1]) / 0.2)) and by_images.cost == IMAGES[-1]
    assert study.speedup("masked", floor=0.5, exponent=0.2, cost="images_seen", at=3000)[model].cost == 3000


def test_one_seed_says_inconclusive(study):
    found = study.where(seed=0).multiplier("masked", cost="accelerator_hours")
    assert found.overall.verdict == "INCONCLUSIVE" and found.overall.interval is None and "one seed" in found.sentence
    assert "INCONCLUSIVE" in study.where(seed=0).frontier().sentence


@pytest.mark.parametrize("ask, said", [
    (lambda s: s.multiplier("maskd"), "no variant 'maskd'; did you mean 'masked'? There are: "),
    (lambda s: s.multiplier("masked", cost="flops"), "no cost 'flops'"),
    (lambda s: s.multiplier("masked", cost="money"), "give price="),
    (lambda s: s.multiplier("masked", targets=[3.0, -1.0]), "give scores above 0"),
    (lambda s: s.time_to_quality(3.0, model="DiT-femto/4"), "no model 'DiT-femto/4'; did you mean 'DiT-femto/2'?"),
    (lambda s: s.time_to_quality(0.0, model="DiT-femto/2"), "give a score above 0"),
    (lambda s: s.where(varant="masked"), "did you mean 'variant'"),
    (lambda s: s.where(seed=7), "seed is one of: 0, 1, 2"),
    (lambda s: s.speedup("masked", floor=1.0, exponent=0.1), "has no validation loss"),
    (lambda s: losses(s).speedup("maskd", floor=0.5, exponent=0.2), "no variant 'maskd'"),
    (lambda s: losses(s).speedup("masked", floor=9.0, exponent=0.2), "below every loss"),
    (lambda s: Study.load(s.path / "nothing"), "is not a study directory"),
])
def test_mistakes_are_told(study, ask, said):
    with pytest.raises(UserError) as told:
        ask(study)
    assert said in str(told.value)


def test_mixed_passports_are_refused(study, values):
    make_run(study.path, values, "masked", 9, passport={**PASSPORT, "samples": 50})
    with pytest.raises(UserError, match=r"mixes passport: .*samples 64, 50.*where\(passport='"):
        Study.load(study.path).multiplier("masked")


def test_two_recipes_are_no_repetitions(study, values):
    make_run(study.path, values, "masked", 3, lr=5e-4)
    mixed = Study.load(study.path)
    with pytest.raises(UserError, match=r"DiT-femto/2 masked was trained by 2 recipes \(train.lr .*\), .*where\(recipe="):
        mixed.multiplier("masked")
    assert len(mixed.frontier().cells) == 12                                   # the other recipe's checkpoints are cells of their own


def test_models_that_only_one_variant_has_are_left_out(study, values):
    for seed in range(3):
        make_run(study.path, values, "masked", seed, model="DiT-atto/2")
    found = Study.load(study.path).multiplier("masked")
    assert {at.variant_model for at in found.targets} == {"DiT-femto/2"}
    assert {model for runs in found.data for model in runs.models} == {"DiT-femto/2"}


def test_hours_that_no_one_wrote_down_are_asked_for(study):
    run = next(study.path.glob("*masked-s1*"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["accelerator_hours"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="accelerator_hours is not known for run '.*masked-s1"):
        Study.load(study.path).multiplier("masked", cost="accelerator_hours")


def test_study_is_at_the_top_and_importing_ditscale_stays_light():
    assert ditscale.Study is Study
    with pytest.raises(AttributeError):
        ditscale.Stdy  # noqa: B018
    subprocess.run([sys.executable, "-c", "import sys, ditscale; assert not {'pandas', 'scipy', 'torch'} & set(sys.modules)"], check=True)


def test_a_loss_has_the_image_cost_of_the_run_s_scores():
    """Its own FLOPs are of draws of a noise level, one or two forwards each, not of images."""
    table = pd.DataFrame({"run_id": ["a", "a", "b"], "metric": ["fid", "loss", "loss"], "macs": 1.0, "forwards_per_image": [15.0, np.nan, np.nan],
                          "evaluation_flops": [3000.0, 400.0, 400.0], "samples": [100, 200, 200]})
    rows = with_image_costs(table)
    assert flops_per_image(rows).tolist()[:2] == [30.0, 30.0] and np.isnan(flops_per_image(rows)[2])
    assert images_of_evaluations(rows) == 100
    with pytest.raises(UserError, match="run 'b': it needs macs, and a score of images"):
        require_flops_per_image(rows)
