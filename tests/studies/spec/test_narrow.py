"""A model or a decoder that is narrower than a patch is noted."""

import pytest
import yaml

from ditscale.studies.spec.narrow import narrow_models
from ditscale.studies.spec.spec import expand, load_spec

CIFAR = {"name": "cifar10", "path": "cifar10.beton", "resolution": 32, "channels": 3, "classes": 10}


@pytest.fixture
def noted(tmp_path, values):
    def note(*models, **config):
        spec = {"version": 1, "name": "s", "metric": {"name": "fd_digits_cnn"}, "runs_dir": str(tmp_path / "runs"),
                "config": {**values, "model": {}, "data": CIFAR, **config}, "parameters": {"model.name": {"values": list(models)}}}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        return narrow_models(expand(load_spec(tmp_path / "spec.yaml"), "spec.yaml"))
    return note


def test_a_model(noted):
    assert noted("DiT-atto/4").startswith("Note: DiT-atto/4 has width 32, a patch 48 numbers.")
    assert noted("DiT-4x64/4") == noted("DiT-atto/2") == ""


def test_a_model_that_predicts_the_clean_image(noted):
    assert noted("DiT-atto/4", formulation={"name": "flow", "prediction": "x"}) == ""


@pytest.mark.parametrize("name", ["masked", "discriminative"])
def test_an_added_decoder(noted, name):
    assert f"the {name} decoder of DiT-4x64/4 has width 32 (objective.decoder_width), a patch 48 numbers" in noted("DiT-4x64/4", objective={"name": name})
    assert noted("DiT-4x64/4", objective={"name": name, "decoder_width": 64, "decoder_heads": 1}) == ""


def test_many_are_counted(noted):
    assert "; and 1 more. " in noted(*(f"DiT-{depth}x64/{patch}" for depth in (2, 4) for patch in (8, 16)))
