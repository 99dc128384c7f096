"""Features on disk: any order, several processes, and rows that are missing or not numbers."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ditscale.evaluation.extractors import Features
from ditscale.evaluation.store import FeatureStore

ROWS = np.random.default_rng(0).normal(size=(5000, 6)).astype(np.float32)


def put(store, positions):
    rows = torch.from_numpy(ROWS[positions])
    store.put(positions, Features(rows, logits=rows[:, :2]))


def nan_rows(store):
    return len(ROWS) if store.pooled is None else int((~np.isfinite(store.pooled)).any(axis=1).sum())


WRITER = """
import sys
import numpy as np, torch
from ditscale.evaluation.extractors import Features
from ditscale.evaluation.store import FeatureStore

folder, share = sys.argv[1], int(sys.argv[2])
rows = np.load(folder + ".npy")
store = FeatureStore(folder, len(rows))
for positions in np.array_split(np.arange(share, len(rows), 3), 7)[::-1]:
    pooled = torch.from_numpy(rows[positions])
    store.put(positions, Features(pooled, logits=pooled[:, :2]))
"""


def test_three_processes_write_one_store(tmp_path):
    np.save(tmp_path / "new.npy", ROWS)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "new", str(share)]) for share in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    store = FeatureStore(tmp_path / "new", len(ROWS))
    assert (store.pooled == ROWS).all() and (store.logits == ROWS[:, :2]).all() and store.spatial is None
    assert isinstance(store.pooled, np.memmap) and not store.pooled.flags.writeable
    assert nan_rows(store) == 0 and sorted(path.name for path in (tmp_path / "new").iterdir()) == ["logits.npy", "pooled.npy"]


def test_missing_rows_and_nan_are_counted(tmp_path):
    store = FeatureStore(tmp_path, len(ROWS))
    assert store.pooled is None and nan_rows(store) == len(ROWS)
    put(store, np.arange(10, len(ROWS)))
    assert nan_rows(store) == 10
    put(store, np.arange(10))
    store.put(np.array([4990, 7]), Features(torch.tensor([[1.0, 2, float("nan"), 0, 0, 0], [float("inf")] * 6])))
    assert nan_rows(store) == 2


def test_a_folder_of_another_count_is_refused(tmp_path):
    put(FeatureStore(tmp_path, len(ROWS)), np.arange(10))
    with pytest.raises(ValueError, match="5000"):
        put(FeatureStore(tmp_path, 10), np.arange(10))
