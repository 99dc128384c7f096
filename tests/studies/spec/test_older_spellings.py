"""Keys that were renamed: the older spelling stays valid wherever a study sets a key, and its runs keep their ids."""

import json

import pytest

from ditscale.cli import main as cli
from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.studies.spec.resolved import config_lines
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.yamlfile import parse_yaml

STUDY = """\
version: 1
name: study
metric: {name: fd_digits_cnn}
%s
config:
  model: {name: DiT-atto/4, class_dropout_prob: 0.2}
  data: {name: digits, path: data/digits/train.beton, resolution: 8, channels: 1, classes: 10}
  formulation: {name: flow}
  objective: {name: discriminative%s}
  train: {%s, global_batch: 64}
"""
LENGTH, DERIVED = "images: 640, checkpoint_every_images: 640", "checkpoints: 2"
IDS = {"default": "DiT-atto-4-discriminative-flow-s0-747309b2", "0.5": "DiT-atto-4-discriminative-flow-s0-a364c07c"}   # of the first spelling


def ids(tmp_path, axes: str, options: str, *overrides: str, length: str = LENGTH) -> list[str]:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY % (axes, options, length))
    spec = load_spec(path, overrides)
    assert config_lines(spec, expand(spec, str(path)), str(path))              # names the line of every value
    return [planned.run_id for planned in expand(spec, str(path))]


@pytest.mark.parametrize("key", ["centre_momentum", "center_momentum"])
def test_a_key_has_one_run_id_in_both_spellings(tmp_path, key):
    wanted = [IDS["0.5"]]
    assert ids(tmp_path, "", f", {key}: 0.5") == wanted
    assert ids(tmp_path, f"parameters: {{objective.{key}: {{value: 0.5}}}}", "") == wanted
    assert ids(tmp_path, f"include: [{{objective.{key}: 0.5}}]", "") == wanted
    assert ids(tmp_path, f"include: [{{objective: {{name: discriminative, {key}: 0.5}}}}]", "") == wanted
    assert ids(tmp_path, f"bundles: {{a: {{b: {{objective.{key}: 0.5}}}}}}", "") == wanted
    assert ids(tmp_path, "", "", f"objective.{key}=0.5") == wanted
    assert ids(tmp_path, "", ", centre_momentum: 0.9", f"objective.{key}=0.5") == wanted
    both = f"parameters: {{objective.{key}: {{values: [0.5, 0.9]}}}}"
    assert ids(tmp_path, both, "") == [IDS["0.5"], IDS["default"]]
    assert ids(tmp_path, both, "", "objective.centre_momentum=0.5") == wanted
    assert ids(tmp_path, f"{both}\nexclude: [{{objective.{key}: 0.9}}]", "") == wanted
    phases = f"phases: {{one: {{objective.{key}: 0.5}}, two: {{}}}}"
    assert len(ids(tmp_path, f"{both}\n{phases}", "")) == 2


@pytest.mark.parametrize("value", ["centring", "centering"])
def test_a_value_has_one_run_id_in_both_spellings(tmp_path, value):
    assert ids(tmp_path, "", f", assignment: {value}") == [IDS["default"]]
    axis = f"parameters: {{objective.assignment: {{values: [{value}, sinkhorn]}}}}"
    assert ids(tmp_path, axis, "", "objective.assignment=centring") == [IDS["default"]]
    assert ids(tmp_path, axis, "", "objective.assignment=centering") == [IDS["default"]]


def test_a_key_in_both_spellings_is_refused(tmp_path):
    with pytest.raises(UserError, match="'center_momentum' is given twice: 'centre_momentum' is its older spelling"):
        ids(tmp_path, "", ", centre_momentum: 0.5, center_momentum: 0.5")
    with pytest.raises(UserError, match="'objective.center_momentum' is given twice"):
        ids(tmp_path, "include: [{objective.centre_momentum: 0.5, objective.center_momentum: 0.5}]", "")


def test_the_record_of_an_older_version_is_read():
    values = parse_yaml((STUDY % ("", "", LENGTH)), "study")["config"]
    values["objective"] |= {"assignment": "centring", "centre_momentum": 0.5}
    config = resolve(json.loads(json.dumps(values)), "run.json")
    assert config.objective.assignment == "centering" and config.objective.center_momentum == 0.5
    assert config.science()["objective"] == {"name": "discriminative", "centre_momentum": 0.5}


def test_keys_of_designs_and_budgets(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hours = "budgets: {accelerator_hours: [1e-6, 2e-6], accelerator: H100, %s: 0.35}"
    assert ids(tmp_path, hours % "utilisation", "", length=DERIVED) == ids(tmp_path, hours % "utilization", "", length=DERIVED)
    design = "isoflop: {budgets: [1e13, 3e13], sizes: 3, %s: {coefficient: 0.0009, exponent: 0.5681}}"
    assert ids(tmp_path, design % "centre", "", length=DERIVED) == ids(tmp_path, design % "center", "", length=DERIVED)
    with pytest.raises(SystemExit, match="0"):
        cli(["config", "study.yaml"])
    assert "study.yaml:4 isoflop" in capsys.readouterr().out
