"""What is checked before any run starts: for each run, not only for the first."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.dotted import set_key
from ditscale.errors import UserError
from ditscale.studies.spec.inputs import check_inputs, check_plan
from ditscale.studies.spec.spec import PlannedRun


@pytest.fixture
def planned(digits_values, repository, monkeypatch):
    monkeypatch.chdir(repository)

    def make(**changes):
        import copy
        values = copy.deepcopy(digits_values)
        for key, value in changes.items():
            set_key(values, key.replace("__", "."), value)
        return PlannedRun(resolve(values, "test"), {})
    return make


@pytest.mark.parametrize("precisions", [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_strategy_must_fit_every_run(planned, precisions):
    runs = [planned(resources__deepspeed="ds_configs/zero0.json", train__precision=precision) for precision in precisions]
    with pytest.raises(UserError, match="ZeRO stage 0 with train.precision bf16"):
        check_inputs(runs)
    check_inputs([run for run in runs if run.config.train.precision == "fp32"])


def test_how_each_run_is_scored_must_fit_its_data(planned):
    runs = [planned(), planned(evaluation__vae="nowhere")]
    for given in (runs, runs[::-1]):
        with pytest.raises(UserError, match="evaluation.vae decodes latents"):
            check_inputs(given)


CNN = "ditscale.evaluation.extractors.feature_maps:digits_cnn"
FACTS = {"format": 1, "name": "cnn", "samples": 1437, "flips": 1, "tokens": 16, "width": 64, "encoder": CNN, "encoder_options": {}, "encoder_blake2b": "0",
         "encoder_macs": 1, "images_blake2b": "0", "pca": None, "sha256": "0", "ditscale_version": "test"}


def aligned(planned, **options):
    return planned(objective={"name": "baseline", "with": [{"name": "repa", "feature_width": 64, **options}]})


@pytest.mark.parametrize("options, words", [
    ({"features": "cnn"}, "objective.with repa: features cnn: .*train.cnn.features.json: no such file; `ditscale data features` makes it"),
    ({"encoder": "nowhere:at_all"}, "objective.with repa: encoder nowhere:at_all: No module named 'nowhere'; name it as package.module:function"),
    ({"encoder": CNN, "encoder_path": "nowhere.pt"}, "objective.with repa: encoder_path nowhere.pt does not exist"),
    ({"encoder": CNN, "encoder_options": {"depth": 3}}, "with encoder_options {'depth': 3}: TypeError: "),
    ({"encoder": CNN, "encoder_path": "ruined.safetensors"}, "with encoder_options {'path': 'ruined.safetensors'}"),
    ({"encoder": "encoders:of_five"}, "encoder encoders:of_five gives .1, 5, 12. for 1 images; with feature_width 64 it must be .1, tokens, 64."),
    ({"encoder": "encoders:of_rgb", "feature_width": 12}, "encoders:of_rgb fails on an image of 1 x 8 x 8, as the model sees it: RuntimeError: .*3 channels"),
    ({"encoder": "encoders:of_five", "feature_width": 12}, "the features have 5 tokens; give 4, as the model has, or a square grid of them"),
])
def test_what_repa_reads_is_checked_before_a_run_starts(planned, tmp_path, monkeypatch, options, words):
    """The encoder's module is one of the working folder, as in a run's worker."""
    (tmp_path / "encoders.py").write_text(
        "from torch import nn\n\n\n"
        "class Five(nn.Module):\n    def forward(self, x):\n        return x.new_zeros(len(x), 5, 12)\n\n\n"
        "def of_five():\n    return Five()\n\n\n"
        "def of_rgb():\n    return nn.Sequential(nn.Conv2d(3, 12, 2, 2), nn.Flatten(2))\n")
    (tmp_path / "ruined.safetensors").write_bytes(b"0")
    runs = [planned(), aligned(planned, **{"encoder_macs": 0, **options} if "encoder" in options else options)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])                              # the folder is added to it
    with pytest.raises(UserError, match=words) as told:
        check_inputs(runs)
    assert "\n" not in str(told.value)
    check_inputs(runs[:1])
    check_plan(runs)                                                           # which may come before the files


def test_a_plan_refuses_features_that_are_there_and_do_not_fit(planned, digits_values, tmp_path):
    """By the JSON next to them."""
    data = tmp_path / "train.beton"
    for name in ("train.beton", "train.json"):
        shutil.copy(Path(digits_values["data"]["path"]).with_name(name), tmp_path / name)
    content = json.loads((tmp_path / "train.json").read_text())["content_blake2b"]
    (tmp_path / "train.cnn.features.json").write_text(json.dumps({**FACTS, "content_blake2b": content}))

    def run(**changes):
        return [planned(objective={"name": "baseline", "with": [{"name": "repa", "features": "cnn", "feature_width": 64, **changes.pop("repa", {})}]},
                        data__path=str(data), **changes)]

    check_plan(run())
    for changes, words in (({"repa": {"feature_width": 32}}, "feature_width 32, but .* has features of 64 numbers; set feature_width to 64"),
                           ({"data__flip": True}, "data.flip True needs features of the flips too")):
        with pytest.raises(UserError, match=words):
            check_plan(run(**changes))
    (tmp_path / "train.cnn.features.json").write_text(json.dumps({**FACTS, "content_blake2b": content, "tokens": 5}))
    with pytest.raises(UserError, match="features of 5 tokens; the model has 4: give as many, or a square grid of them"):
        check_plan(run())


def test_commands_refuse_before_anything_starts(digits_values, tmp_path):
    study = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "runs_dir": str(tmp_path / "runs"), "config": digits_values}
    digits_values["objective"] = {"name": "baseline", "with": [{"name": "repa", "features": "none", "feature_width": 64}]}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(study))
    for command in ("launch", "train"):
        done = CliRunner().invoke(main, [command, str(tmp_path / "spec.yaml")])
        assert done.exit_code == 2 and "objective.with repa: features none: " in done.output, done.output
    assert not list((tmp_path / "runs").glob("**/run.json"))
