"""Rates over a study's sizes: heads of one width under a parametrization, a note where widths share a rate."""

import pytest
import yaml

from ditscale.errors import UserError
from ditscale.studies.spec.rates import shared_rate
from ditscale.studies.spec.spec import expand, load_spec


@pytest.fixture
def runs_of(tmp_path, values):
    def make(models, parameters={}, **model):
        spec = {"version": 1, "name": "s", "metric": {"name": "fd_digits_cnn"}, "runs_dir": str(tmp_path / "runs"),
                "config": {**values, "model": model}, "parameters": {"model.name": {"values": models}, **parameters}}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        return expand(load_spec(tmp_path / "spec.yaml"), "spec.yaml")
    return make


def test_heads_of_two_widths_are_refused_under_mup(runs_of):
    assert runs_of(["DiT-atto/4", "DiT-tiny/4"])
    with pytest.raises(UserError, match=r"heads of 32 \(DiT-nano/4\) and 64 \(DiT-tiny/4\); name models by depth x width.*for example DiT-6x128/2"):
        runs_of(["DiT-nano/4", "DiT-tiny/4"], parametrization="mup", base_width=64)


def test_a_shared_rate_is_noted(runs_of):
    assert "2 widths share train.lr" in shared_rate(runs_of(["DiT-2x64/4", "DiT-2x128/4"]))
    assert shared_rate(runs_of(["DiT-2x64/4", "DiT-2x128/4"], parametrization="mup", base_width=64)) == ""
    assert shared_rate(runs_of(["DiT-2x64/4", "DiT-2x128/4"], {"train.lr": {"values": [1e-3, 2e-3]}})) == ""
    assert shared_rate(runs_of(["DiT-2x64/4", "DiT-4x64/4"])) == ""
