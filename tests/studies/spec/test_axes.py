"""Bundles, budgets and derived lengths: axes of a study beside its parameters."""

import pytest
import yaml

from ditscale.cost.runs import training_flops
from ditscale.errors import UserError
from ditscale.studies.launch.single import the_one
from ditscale.studies.spec.budgets import Budgets
from ditscale.studies.spec.spec import expand, load_spec

HOURS = {"accelerator_hours": [10], "accelerator": "H100", "utilization": 0.35}
VARIANTS = {"variant": {"plain": {"objective.name": "baseline"}, "mdt": {"objective.name": "mdt", "train.lr": 3e-4}}}


@pytest.fixture
def runs_of(tmp_path, values):
    """Expand a spec of DiT-atto/4 with changes, ``train`` ones in the section, and command-line overrides."""
    def runs(*overrides, train={}, **changes):
        values["model"]["name"] = "DiT-atto/4"
        values["train"] = {key: value for key, value in {**values["train"], **train}.items() if value is not None}
        spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values,
                "runs_dir": str(tmp_path / "runs"), **changes}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        return expand(load_spec(tmp_path / "spec.yaml", overrides), "spec.yaml")
    return runs


def told(runs):
    return [(run.config.objective.name, run.config.train.lr, run.config.seed) for run in runs]


def test_bundles_are_an_axis(runs_of):
    both = {"bundles": VARIANTS, "parameters": {"seed": {"values": [0, 1]}}}
    plain, mdt = ("baseline", told(runs_of())[0][1]), ("mdt", 3e-4)
    assert told(runs_of(**both)) == [(*plain, 0), (*mdt, 0), (*plain, 1), (*mdt, 1)]
    assert told(runs_of("variant=mdt", **both)) == [(*mdt, 0), (*mdt, 1)]
    assert told(runs_of(**both, exclude=[{"variant": "mdt", "seed": 1}])) == [(*plain, 0), (*mdt, 0), (*plain, 1)]
    assert told(runs_of(bundles=VARIANTS, include=[{"variant": "mdt", "train.lr": 1e-3}])) == [
        (*plain, 0), (*mdt, 0), ("mdt", 1e-3, 0)]                              # a key of its own stands above the bundle


@pytest.mark.parametrize("overrides, wanted", [
    (["objective.name=mdt"], [("mdt", 3e-4, 0), ("mdt", 3e-4, 1)]),            # the bundle's own runs, not all made to be it
    (["train.lr=1e-3"], [("baseline", 1e-3, 0), ("baseline", 1e-3, 1)]),
    (["train.lr=5e-4", "seed=0"], [("baseline", 5e-4, 0), ("mdt", 5e-4, 0)]),  # none has it: set in all, above their bundles
    (["train.lr=5e-4", "variant=mdt", "seed=1"], [("mdt", 5e-4, 1)]),
    (["train.lr=1e-3", "objective.name=masked", "seed=0"], [("masked", 1e-3, 0)]),
    (["objective.name=[mdt, baseline]", "seed=0"], [("mdt", 3e-4, 0), ("baseline", 1e-3, 0)]),
    (["train={images: 640, global_batch: 64, checkpoint_every_images: 320, lr: 2e-4}", "seed=0"],
     [("baseline", 2e-4, 0), ("mdt", 2e-4, 0)]),
])
def test_overrides_of_what_a_bundle_sets(runs_of, overrides, wanted):
    assert told(runs_of(*overrides, bundles=VARIANTS, parameters={"seed": {"values": [0, 1]}})) == wanted


def test_bundles_that_an_override_makes_alike_are_one_run(runs_of):
    names = {"a": {"objective.name": "mdt"}, "b": {"objective.name": "masked"}}
    assert [name for name, _, _ in told(runs_of("objective.name=baseline", bundles={"kind": names}))] == ["baseline"]


def test_a_length_in_images_keeps_the_runs_of_its_budget(runs_of):
    budgets = {"train": {"images": None}, "budgets": {"flops": [2e10, 5e10]}}
    short, long = runs_of(**budgets)
    assert [run.run_id for run in runs_of(f"train.images={long.config.train.images}", **budgets)] == [long.run_id]


def test_what_differs_is_named_by_keys(tmp_path, runs_of):
    runs = runs_of(bundles=VARIANTS)
    with pytest.raises(UserError, match="differ in objective.name: baseline, mdt; train.lr: .* example objective.name=baseline"):
        the_one(load_spec(tmp_path / "spec.yaml"), runs, "spec.yaml")


def test_a_run_is_the_same_however_it_was_said(runs_of):
    """A bundle's name is no part of a run's identity."""
    [bundled] = runs_of("variant=mdt", bundles=VARIANTS)
    [direct] = runs_of("objective.name=mdt", "train.lr=3e-4")
    assert bundled.run_id == direct.run_id


@pytest.mark.parametrize("objective", ["baseline", "masked", "mdt", "discriminative", "tread", "sprint"])
def test_budgets_in_flops_are_spent_to_the_last_batch(runs_of, objective):
    flops = [2e10, 5e10]
    runs = runs_of(f"objective.name={objective}", train={"images": None}, budgets={"flops": flops})
    for run, budget in zip(runs, flops, strict=True):
        config = run.config
        longer = config.model_copy(update={"train": config.train.model_copy(update={"images": config.train.images + 64})})
        assert training_flops(config, config.train.images) <= budget < training_flops(longer, longer.train.images)
        assert config.train.images % config.train.global_batch == 0
    assert runs_of("train.flops=2e10", f"objective.name={objective}", budgets={"flops": flops})[0].run_id == runs[0].run_id


def test_a_mask_schedule_is_counted_step_by_step(runs_of):
    [run] = runs_of("objective.name=masked", "objective.unmasking_images=640", train={"images": None}, budgets={"flops": [4e10]})
    assert training_flops(run.config, run.config.train.images) <= 4e10


def test_budgets_in_images(runs_of):
    runs = runs_of(train={"images": None}, budgets={"images": [640, 1280]})
    assert [run.config.train.images for run in runs] == [640, 1280]


def test_budgets_in_hours_and_money_are_the_same_on_every_machine(runs_of):
    """10 hours on an H100 at 35 % are 1.246e19 FLOPs; 25 at 2.5 an hour are 10 hours."""
    tiny = {**HOURS, "accelerator_hours": [1e-8, 2e-8]}
    hours = runs_of(train={"images": None}, budgets=tiny)
    money = runs_of(train={"images": None}, budgets={**HOURS, "accelerator_hours": None, "money": [2.5e-8, 5e-8], "price": 2.5})
    flops = runs_of(train={"images": None}, budgets={"flops": [1e-8 * 3600 * 0.35 * 989e12, 2e-8 * 3600 * 0.35 * 989e12]})
    assert [run.run_id for run in hours] == [run.run_id for run in money] == [run.run_id for run in flops]
    assert Budgets(**HOURS).derivation() == ["budget: 10 H100-hours of training x 0.35 of 989 TFLOP/s = 1.246e+19 FLOPs"]
    [line] = Budgets(**{**HOURS, "accelerator_hours": None, "money": [25], "price": 2.5}).derivation()
    assert line.startswith("budget: 25 at 2.5 per hour = 10 H100-hours")


def test_checkpoints_by_number(runs_of):
    [run] = runs_of(train={"images": 1000, "checkpoint_every_images": None, "checkpoints": 3})
    assert run.config.train.checkpoint_every_images == 384                     # 334 in whole batches of 64


@pytest.mark.parametrize("changes, words", [
    ({"budgets": {"flops": [1e12]}}, "train.flops decides train.images, and both are given"),
    ({"budgets": {"flops": [1e3]}, "train": {"images": None}}, "train.flops 1000 is too small for 64 images"),
    ({"budgets": {"flops": [1e12], "images": [5]}}, "budgets takes either"),
    ({"budgets": {}}, "budgets takes either"),
    ({"budgets": {"flop": [1e12]}}, "did you mean 'flops'"),
    ({"budgets": {"accelerator_hours": [10], "utilization": 0.3}}, "budgets.accelerator_hours needs budgets.accelerator, for example"),
    ({"budgets": {"accelerator_hours": [10], "accelerator": "H100"}}, "needs budgets.utilization, for example utilization: 0.35"),
    ({"budgets": {"money": [10], "accelerator": "H100", "utilization": 0.3}}, "budgets.money needs budgets.price"),
    ({"budgets": {"flops": [1e12], "price": 2.5}}, "budgets.price is 2.5, but budgets.flops does not depend on it"),
    ({"budgets": {**HOURS, "accelerator": "H10"}}, "budgets.accelerator is 'H10'; did you mean 'H100'"),
    ({"budgets": {**HOURS, "utilization": 35}}, "'budgets.utilization' is 35"),
    ({"budgets": {**HOURS, "accelerator_hours": [-1]}}, "'budgets.accelerator_hours.0' is -1"),
    ({"train": {"checkpoints": 3}}, "train.checkpoints decides train.checkpoint_every_images, and both are given"),
    ({"train": {"checkpoints": 0, "checkpoint_every_images": None}}, "train.checkpoints is 0; give a number above 0"),
    ({"bundles": {"train": {"a": {}}}}, "bundles: 'train' is a key of the config"),
    ({"bundles": {"variant": {}}}, "bundles: 'variant' is empty"),
    ({"bundles": VARIANTS, "include": [{"variant": "mtd"}]}, "variant is 'mtd'; did you mean 'mdt'"),
    ({"bundles": VARIANTS, "exclude": [{"varient": "mdt"}]}, "exclude names 'varient', which is not a parameter; did you mean"),
    ({"bundles": {"v": {"a": {}, "b": {}}}}, "two runs of the study are the same"),
])
def test_what_is_wrong_is_named(runs_of, changes, words):
    with pytest.raises(UserError) as error:
        runs_of(**changes)
    assert words in str(error.value) and "\n" not in str(error.value)
