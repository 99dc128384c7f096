"""``train.branches``: which runs it makes, what they cost, and what is refused."""

import json

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.cost.hardware import named_machine
from ditscale.errors import UserError
from ditscale.objectives import VARIANTS
from ditscale.studies.plan.plan import plan_rows, saved_by_branches
from ditscale.studies.spec.spec import expand, load_spec

LENGTHS = [1280, 2560, 5120, 10240, 20480]                                     # powers of two


@pytest.fixture
def study(tmp_path, values):
    """``study(changes of config, parts of the spec)``: the path of a study with branches."""
    def write(train={}, config={}, **parts):
        del values["train"]["images"]
        values["train"].update({"lr_schedule": "wsd", "branches": LENGTHS, **train})
        spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": {**values, **config}, "runs_dir": str(tmp_path / "runs"), **parts}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        return tmp_path / "spec.yaml"
    return write


def runs_of(path, *overrides):
    return expand(load_spec(path, overrides), str(path))


def test_the_longest_is_the_trunk_and_the_others_start_from_it(study):
    runs = runs_of(study(parameters={"seed": {"values": [0, 1]}}))
    assert [planned.config.train.images for planned in runs] == 2 * sorted(LENGTHS, reverse=True)
    for trunk, *branches in (runs[:5], runs[5:]):
        assert trunk.config.parent is None and trunk.config.resources.branch_images == (1024, 2048, 4096, 8192)
        for planned in branches:
            assert planned.config.parent.run == trunk.run_id and planned.config.parent.images * 10 == planned.config.train.images * 8
            assert planned.config.science()["parent"] == {"run": trunk.run_id, "images": planned.config.parent.images}
    assert len({planned.run_id for planned in runs}) == 10


def test_a_trunk_is_the_run_without_branches_and_a_branch_has_its_recipe(study, values):
    runs = {planned.config.train.images: planned for planned in runs_of(study())}
    values["train"].pop("branches")
    spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values, "parameters": {"train.images": {"values": LENGTHS}}}
    (path := runs[1280].run.path.parents[1].with_name("straight.yaml")).write_text(yaml.safe_dump(spec))
    straight = {planned.config.train.images: planned for planned in runs_of(path)}
    assert runs[20480].run_id == straight[20480].run_id
    for images in LENGTHS[:-1]:
        assert runs[images].run_id != straight[images].run_id and runs[images].config.recipe() == straight[images].config.recipe()


def test_key_value_keeps_one_length(study):
    path = study()
    [branch] = runs_of(path, "train.images=2560")
    assert branch.run_id == runs_of(path)[3].run_id
    assert [planned.config.train.images for planned in runs_of(path, "train.branches=[640, 1280]")] == [1280, 640]
    with pytest.raises(UserError, match=r"train.images 700 is not in train.branches \[1280"):
        runs_of(path, "train.images=700")


@pytest.mark.parametrize("objective, saved", [({"name": "baseline"}, "39% saved"), ({"name": "masked", "unmasking_images": 192}, "38% saved")])
def test_powers_of_two_cost_1_2_of_the_longest_run_instead_of_2(study, objective, saved):
    """S_k (1 + 0.2 (1/2 + 1/4 + ...)) against S_k (1 + 1/2 + 1/4 + ...), in MACs."""
    path = study(config={"objective": objective})
    runs = runs_of(path)
    rows = plan_rows(runs, named_machine("H100:8"))
    of_trunk = rows[0].train_flops
    if objective["name"] == "baseline":
        assert of_trunk == 6 * rows[0].macs * 20480
        assert sum(row.train_flops for row in rows) / of_trunk == pytest.approx(1 + 0.2 * (1 - 2 ** -4), abs=1e-12)
    assert f"4 runs of 5 train only from where they leave their trunks: {sum(row.train_flops for row in rows):.3g}" in saved_by_branches(rows, runs)
    assert saved in saved_by_branches(rows, runs)                              # 1 - 1.1875 / 1.9375
    assert [(row.trunk, row.start_images) for row in rows[:2]] == [("", 0), (runs[0].run_id, 8192)]


def test_plan_shows_them_and_config_says_where_from(study, repository, monkeypatch):
    path = study(config={"evaluation": None})
    monkeypatch.chdir(repository)
    said = CliRunner().invoke(main, ["plan", str(path), "--on", "H100:8", "--json", str(path.with_suffix(".json"))], env={"COLUMNS": "120"}).output
    assert " from " in said and "8.19 k" in said and "39% saved" in said and "from: images of its trunk" in said and "tok/par" not in said
    lone = CliRunner().invoke(main, ["plan", str(path), "--on", "H100", "train.branches=[10240]"], env={"COLUMNS": "120"}).output
    assert "train.branches [10240] has one length, so no run branches off" in " ".join(lone.split()) and "has one length" not in said
    first, second, *_ = json.loads(path.with_suffix(".json").read_text())
    assert (second["trunk"], second["start_images"], first["trunk"]) == (first["run_id"], 8192, "")
    said = CliRunner().invoke(main, ["config", str(path), "train.images=1280"]).output
    assert all("# from train.branches" in line for line in said.splitlines() if line.split(":")[0].strip() in ("run", "images", "branch_images"))
    assert "images: 1024" in said


WRONG = [
    ({"branches": [1000, 2000]}, "train.branches has 1000, whose decay starts at 800 images (0.8 of it); both must be whole batches of 64; the nearest "
                                 "that works is 960"),
    ({"branches": [2560, 2560]}, "train.branches has a length twice: 2560, 2560"),
    ({"branches": []}, "train.branches is []; give a list of training lengths in images"),
    ({"branches": [640.5]}, "train.branches is [640.5]; give a list"),
    ({"branches": 640}, "train.branches is 640; give a list"),
    ({"images": 640}, "train.branches decides train.images, and train.images 640 is given too"),
    ({"flops": 1e12}, "train.branches decides train.images, and train.flops 1000000000000.0 is given too"),
    ({"lr_schedule": "cosine"}, "train.branches needs train.lr_schedule wsd"),
    ({"lr_decay_share": 1.0}, "train.lr_decay_share 1 leaves nothing that train.branches could share"),
    ({"warmup_images": 1100}, "train.warmup_images 1100 reaches into the decay of wsd, which starts at image 1024"),
]


@pytest.mark.parametrize("train, words", WRONG)
def test_what_is_refused(study, train, words):
    with pytest.raises(UserError) as error:
        runs_of(study(train))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_parent_of_ones_own_is_refused(study):
    with pytest.raises(UserError, match="parent is set by train.branches"):
        runs_of(study({"branches": None, "images": 640}, {"parent": {"run": "x", "images": 64}}))


@pytest.mark.parametrize("objective, words", [
    ({"name": "masked", "mask_schedule": "cosine"}, "objective.mask_schedule cosine depends on train.images; give constant"),
    ({"name": "masked", "unmasking_images": 2560}, "objective.unmasking_images 2560 reaches before the last 2048 images, the decay; give at most 2048"),
    ({"name": "masked", "mask_ratio": 0.0, "unmasking_images": 2560}, "objective.unmasking_images 2560 reaches before the last 2048 images"),
    ({"name": "discriminative"}, "objective.teacher_temperature_ramp 0.1 is a share of train.images; give 0"),
    ({"name": "discriminative", "teacher_temperature_ramp": 0.0, "teacher_momentum_schedule": "cosine"},
     "objective.teacher_momentum_schedule cosine depends on train.images; give constant"),
])
def test_a_variant_whose_schedule_depends_on_the_length_is_refused_by_its_own_keys(study, objective, words):
    with pytest.raises(UserError) as error:
        runs_of(study(config={"objective": objective}))
    assert f"length 10240 cannot branch off at 8192 images with objective.name {objective['name']}: {words}" in str(error.value)
    assert "None" not in str(error.value) and str(error.value).count("; give") == 1


@pytest.mark.parametrize("train, overrides", [({"images": None}, ()), ({"flops": None}, ()), ({}, ("train.images=null",))])
def test_null_is_a_length_that_is_not_set(study, train, overrides):
    assert [planned.config.train.images for planned in runs_of(study(train), *overrides)] == sorted(LENGTHS, reverse=True)


def test_what_each_variant_reads_of_its_length_is_in_its_schedules(values):
    """A length that is not in ``schedules`` would let a branch differ from the run of its length: every method that takes ``images`` is there."""
    import inspect

    for name, variant in VARIANTS.items():
        taking = {method for method, function in inspect.getmembers(variant, inspect.isfunction) if "images" in inspect.signature(function).parameters}
        own = taking - {"check", "schedules", "kept_at", "stage_lr", "ratio_at"}
        source = inspect.getsource(variant.schedules)
        assert all(method in source for method in own), (name, own)


def test_a_branch_is_not_in_an_earlier_phase_than_its_trunk(study):
    path = study(phases={"first": {"train.images": [1280, 2560]}, "rest": {}})
    with pytest.raises(UserError, match="is in 'first' and branches off .* in 'rest', which is later"):
        runs_of(path)
