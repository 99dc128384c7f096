"""Mistakes in a study's file that would go unnoticed, or be told in another tool's words: each is one line that says what to write."""

import json

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.dotted import set_key


@pytest.fixture
def plan(tmp_path, values, repository, monkeypatch):
    """``plan(changes, *options)``: what `ditscale plan` says of a study of six runs, changed or given as text."""
    monkeypatch.chdir(repository)
    base = {"version": 1, "name": "s", "metric": {"name": "fd_digits_cnn"}, "config": values, "runs_dir": str(tmp_path / "runs"),
            "parameters": {"model.name": {"values": ["DiT-atto/8", "DiT-atto/4"]}, "seed": {"values": [0, 1, 2]}}}

    def call(changes, *options):
        path = tmp_path / "spec.yaml"
        if isinstance(changes, dict):
            for key, value in changes.items():
                if key.startswith("config."):
                    set_key(base["config"], key.removeprefix("config."), value)
                else:
                    base[key] = value
        path.write_text(changes if isinstance(changes, str) else yaml.safe_dump(base))
        done = CliRunner().invoke(main, ["plan", str(path), *options])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done
    return call


def refused(done) -> str:
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.output
    return done.stderr


@pytest.mark.parametrize("exclude, words", [
    ([{"model.name": "DiT-atto/2"}], "exclude names model.name: DiT-atto/2, which no run has; did you mean 'DiT-atto/8'? There are: DiT-atto/8, DiT-atto/4"),
    ([{"seed": [0, 7]}], "exclude names seed: 7, which no run has. There are: 0, 1, 2"), ([{"seed": "0"}], "exclude names seed: 0"),
    ([{"seed": 0}, {"seed": 3}], "exclude names seed: 3"), ([{"seed": []}], "exclude {seed: []} leaves nothing out"),
])
def test_an_exclude_that_leaves_nothing_out(plan, exclude, words):
    assert words in refused(plan({"exclude": exclude}))


@pytest.mark.parametrize("exclude, left", [([{"model.name": ["DiT-atto/8"]}], 3), ([{"model.name": ["DiT-atto/8", "DiT-atto/4"], "seed": [1, 2]}], 2),
                                           ([{"seed": 0}, {"seed": [0, 1]}], 2), ([{"seed": 1, "model.name": "DiT-atto/4"}], 5)])
def test_exclude_takes_lists_as_phases_do(plan, exclude, left):
    done = plan({"exclude": exclude})
    assert done.exit_code == 0 and f"s: {left} runs" in done.stdout


@pytest.mark.parametrize("average, lengths, words", [
    ("ema-length-0.1", [], "average is 'ema-length-0.1', which no checkpoint of the run will have. It has ema, masters; for length-0.1 train with "
                           "train.ema_lengths: [0.05, 0.1]"),
    ("ema-power-0.5", [0.05], "did you mean 'ema-power-0.05'? It has ema, ema-power-0.05, masters, and length-X of any X above 0 and below 0.289"),
    ("length-0.1", [], "for length-0.1 train with train.ema_lengths"), ("length-0.4", [0.05, 0.1], "above 0 and below 0.289"),
    ("length-short", [0.05], "average is 'length-short'"),
])
def test_an_average_that_no_run_keeps(plan, average, lengths, words):
    assert words in refused(plan({"config.evaluation.average": average, "config.train.ema_lengths": lengths}))


@pytest.mark.parametrize("average, lengths", [("masters", []), ("length-0.07", [0.05, 0.1]), ("ema-power-0.1", [0.1])])
def test_an_average_that_runs_keep(plan, average, lengths):
    assert plan({"config.evaluation.average": average, "config.train.ema_lengths": lengths}).exit_code == 0


def test_a_value_that_is_a_list_is_one_value(plan):
    parameters = {"train.betas": {"values": [[0.9, 0.95], [0.9, 0.999]]}}
    assert "s: 1 run" in plan({"parameters": parameters, "exclude": [{"train.betas": [0.9, 0.95]}]}).stdout
    assert "exclude names train.betas: 0.5" in refused(plan({"parameters": parameters, "exclude": [{"train.betas": [0.5, 0.95]}]}))


@pytest.mark.parametrize("setting, words", [
    ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, "train.lr has distribution, min, max; distributions are not supported here"),
    ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, "write train.lr: {values: [0.0001, 0.01]} with each value to run"),
    ({"distribution": "categorical", "values": [1, 2]}, "write train.lr: {values: [1, 2]}"),
    ({"min": 1, "max": 2}, "train.lr has min, max"), (1e-3, "'parameters.train.lr' is 0.001; write train.lr: {values: [0.001]}"),
    ([1e-3, 2e-3], "write train.lr: {values: [0.001, 0.002]}"), (None, "'parameters.train.lr' is None"),
    ({"parameters": {"a": {"values": [1]}}}, "train.lr is nested; write a dotted key for each, for example train.lr.a: {values: [...]}"),
    ({"a": {"values": [1]}}, "for example train.lr.a: {values: [...]}"), ({"values": [1], "value": 2}, "either 'value: x' or 'values: [x, y]'"),
])
def test_parameters_in_other_forms(plan, setting, words):
    assert words in refused(plan({"parameters": {"train.lr": setting}}))


@pytest.mark.parametrize("place", ["config:\n  <<: {seed: 3}\n", "x: &x {a: 1}\ny:\n  <<: *x\n", "<<: {name: s}\n"])
def test_merge_keys_say_what_to_write(plan, place):
    said = refused(plan("version: 1\n" + place))
    assert "merge keys (<<) are not supported; write the keys out instead" in said and " line " in said


@pytest.mark.parametrize("key, value, words", [
    ("train.betas", [2, 3], "train.betas has 2.0; give two numbers from 0 to below 1"), ("train.betas", [0.9, 1.0], "has 1.0"),
    ("train.betas", [-0.1, 0.9], "has -0.1"), ("data.path", "", "'data.path' is ''"), ("evaluation.reference_path", "", "'evaluation.reference_path' is ''"),
    ("resources.accelerators_per_run", 10**7, "'resources.accelerators_per_run' is 10000000: should be less than or equal to 1000000"),
])
def test_ranges(plan, key, value, words):
    assert words in refused(plan({f"config.{key}": value}))


@pytest.mark.parametrize("options, words", [
    (("--on", "H100:999999999999"), "--on H100:999999999999: '999999999999' is not a number of devices, 1 to 1,000,000"),
    (("--on", "H100:\u00b2"), "is not a number of devices"), (("--on", "H100:0"), "is not a number of devices"), (("--on", "H100:-1"), "is not a number"),
    (("--price", "nan"), "--price nan is not an amount"), (("--price", "inf"), "--price inf is not an amount"),
    (("--on", "H100:8", "--network", "inf"), "--network inf is not an amount"),
])
def test_options_of_plan(plan, options, words):
    assert words in refused(plan({}, *options))


def beton(folder, labels, classes=None):
    """A file of grey 8-pixel images with these labels, with a manifest where ``classes`` says how many there are."""
    import numpy as np

    from ditscale.data.beton import write_beton
    from ditscale.data.manifest import Manifest, write_manifest

    path = folder / "x.beton"
    write_beton(path, {"image": np.zeros((len(labels), 1, 8, 8), np.uint8), "label": np.array(labels)})
    if classes:
        write_manifest(path, Manifest(name="x", split="all", samples=len(labels), shape=[1, 8, 8], classes=classes,
                                      class_counts=np.bincount(labels, minlength=classes).tolist(), source="", source_blake2b="",
                                      content_blake2b="", writer="numpy", ditscale_version="0"))
    return str(path)


@pytest.mark.parametrize("labels, classes, asked, words", [
    ([0] * 6, 1, 1000, "holds 1 class, its manifest says, but data.classes is 1,000; it was built without labels, or of one class; set data.classes to 1"),
    ([0] * 6, None, 1000, "holds 1 class, all its labels are equal, but data.classes is 1,000"),
    ([0, 1, 2], 3, 2, "holds 3 classes, its manifest says, but data.classes is 2"), ([0, 1, 2], 3, 10, "holds 3 classes"),
])
def test_the_classes_of_the_data(plan, tmp_path, labels, classes, asked, words):
    path = beton(tmp_path, labels, classes)
    changes = {"config.data.path": path, "config.data.classes": asked, "config.evaluation": None}
    assert words in refused(plan(changes))
    for command in (["train", str(tmp_path / "spec.yaml"), "seed=0", "model.name=DiT-atto/8"], ["launch", str(tmp_path / "spec.yaml")]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2 and "data.classes is" in done.stderr and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("labels, classes, asked", [([0] * 6, 1, 1), ([0] * 6, None, 1), ([0, 1, 3], None, 10), ([0, 1, 2], 3, 3), ([0, 2, 2], 4, 4)])
def test_classes_that_agree(plan, tmp_path, labels, classes, asked):
    path = beton(tmp_path, labels, classes)
    done = plan({"config.data.path": path, "config.data.classes": asked, "config.evaluation": None})
    assert done.exit_code == 0, done.output


def test_a_plan_without_the_data(plan, tmp_path):
    assert plan({"config.data.path": str(tmp_path / "none.beton")}).exit_code == 0
    (tmp_path / "odd.beton").write_text(json.dumps({}))
    assert plan({"config.data.path": str(tmp_path / "odd.beton")}).exit_code == 0    # launch says what is wrong with it
