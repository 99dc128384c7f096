"""Compiled ops live in the environment that compiled them."""

import sys
from pathlib import Path

from ditscale.training.extensions import extensions_dir, keep_extensions_here


def test_each_environment_has_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    keep_extensions_here()
    assert extensions_dir() == tmp_path / "torch_extensions"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "elsewhere"))
    keep_extensions_here()                                                     # a choice that was made stands
    assert extensions_dir() == tmp_path / "torch_extensions"


def test_an_environment_that_cannot_be_written_leaves_torchs_choice(monkeypatch):
    import os

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.setattr(sys, "prefix", "/nowhere")
    keep_extensions_here()
    assert "TORCH_EXTENSIONS_DIR" not in os.environ and extensions_dir().name == "torch_extensions"
    assert Path("/nowhere") not in extensions_dir().parents
