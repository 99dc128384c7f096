"""What is written to the disk is read back and compared, before a checkpoint gets its name."""

import errno
import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from ditscale import tensorfile
from ditscale.digest import file_sha256
from ditscale.errors import TrainingFailed
from ditscale.rundir import read_lines
from ditscale.tensorfile import write_verified
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import train

TENSORS = {"weight": torch.randn(64, 33), "nan": torch.tensor([math.nan, 1.0]), "count": torch.tensor(3), "half": torch.randn(5).bfloat16(),
           "flags": torch.tensor([True, False]), "empty": torch.zeros(0, 4)}


def flip(place):
    """One bit, so many bytes from the end."""
    def damage(path):
        data = bytearray(path.read_bytes())
        data[-place] ^= 4
        path.write_bytes(data)
    return damage


def cut(path):
    os.truncate(path, path.stat().st_size - 8)


def swap(old, new):
    def damage(path):
        data = path.read_bytes()
        assert old in data and len(old) == len(new)
        path.write_bytes(data.replace(old, new, 1))
    return damage


def fill(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_others_may_read_it(tmp_path):
    before = os.umask(0o022)
    try:
        write_verified(tmp_path / "x.safetensors", TENSORS)
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def damaged(monkeypatch):
    """``damaged(damage, "masters.safetensors", 2)``: the second file of that name is damaged on its way to the disk."""
    def spoil(damage, name, time=1):
        def save_damaged(tensors, path):
            save_file(tensors, path)
            if path.name == name and next(times) == time:
                damage(path)
        times = iter(range(1, 100))
        monkeypatch.setattr(tensorfile, "save_file", save_damaged)
    return spoil


def test_what_was_written_is_what_is_read(tmp_path):
    sha256 = write_verified(tmp_path / "x.safetensors", TENSORS)
    assert sha256 == file_sha256(tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items() if name != "nan")


@pytest.mark.parametrize("damage", [flip(1), flip(4000), flip(8000), cut, swap(b"weight", b"height"), swap(b"[64,33]", b"[33,64]"),
                                    swap(b"BF16", b"F16 "), swap(b'"BOOL"', b'"I8"  ')])
def test_any_damage_is_an_error(tmp_path, damaged, damage):
    damaged(damage, "x.safetensors")
    with pytest.raises(OSError, match="x.safetensors was written, but"):
        write_verified(tmp_path / "x.safetensors", TENSORS)


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("damage, words", [(flip(5), "optimizer.safetensors was written, but exp_avg"),
                                           (cut, "optimizer.safetensors was written, but cannot be read back"),
                                           (fill, "No space left on device")])
def test_a_damaged_checkpoint_gets_no_name(make_run, world, damaged, damage, words):
    config, whole = make_run("whole")
    assert train(config, whole, world)
    config, run = make_run()
    damaged(damage, "optimizer.safetensors", 2)
    with pytest.raises(TrainingFailed, match=f"the checkpoint at 640 images could not be saved in .*{words}.*Earlier checkpoints are kept"):
        train(config, run, world)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["images-000000000320", "latest"]
    assert (run.checkpoints / "latest").read_text() == "images-000000000320\n"
    assert train(config, run, world)
    assert [line["loss/generative"] for line in read_lines(run.metrics)] == [line["loss/generative"] for line in read_lines(whole.metrics)]
    saved = json.loads((list_checkpoints(run)[-1] / "state.json").read_text())
    assert saved == json.loads((list_checkpoints(whole)[-1] / "state.json").read_text())
