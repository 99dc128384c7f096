"""Streaming moments against numpy in one go, however the rows are cut and merged."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ditscale.evaluation.metrics.moments import Accumulator, merge_over_ranks, moments


def exact(features):
    """Mean and covariance in 80-bit floats."""
    wide = features.astype(np.longdouble)
    centered = wide - wide.mean(0)
    return wide.mean(0), centered.T @ centered / (len(wide) - 1)


@pytest.fixture(scope="module", params=[0, 1000])
def features(request):
    """(1500, 24), correlated, float32, also far from zero."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(1500, 24)) @ rng.normal(size=(24, 24)) + request.param).astype(np.float32)


def accumulated(features, cuts):
    accumulator = Accumulator(features.shape[1])
    for batch in np.split(features, cuts):
        accumulator.add(batch)
    return accumulator


def assert_exact(got, features):
    mean, covariance = exact(features)
    assert got.count == len(features)
    assert abs(got.mean - mean).max() <= 1e-12 * abs(mean).max()
    assert abs(got.covariance - covariance).max() <= 1e-12 * abs(covariance).max()


def test_ragged_batches(features):
    assert_exact(accumulated(features, [1, 2, 70, 70, 300, 301, 1499]).moments(), features)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_merged_in_any_split(features, ranks):
    rng = np.random.default_rng(ranks)
    for _ in range(5):
        cuts = np.sort(rng.integers(0, len(features), ranks - 1))
        merged = Accumulator(features.shape[1])
        for part in rng.permutation(ranks):
            rows = np.split(features, cuts)[part]
            merged.merge(accumulated(rows, range(0, len(rows), 64)))
        assert_exact(merged.moments(), features)


def test_a_memory_map_and_chosen_rows(features, tmp_path):
    np.save(tmp_path / "features.npy", np.tile(features, (3, 1)))
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert_exact(moments(mapped), np.tile(features, (3, 1)))
    rows = np.random.default_rng(1).integers(len(mapped), size=2500)
    assert_exact(moments(mapped, rows), np.asarray(mapped)[rows])


def test_one_row_has_no_covariance():
    with pytest.raises(ValueError, match="1 rows"):
        accumulated(np.ones((1, 3)), []).moments()


def test_alone_nothing_is_sent():
    accumulator = accumulated(np.eye(3), [])
    assert merge_over_ranks(accumulator) is accumulator


RANK = """
import sys, numpy as np, torch.distributed as dist
from ditscale.evaluation.metrics.moments import Accumulator, merge_over_ranks
rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
accumulator = Accumulator(24)
rows = np.load(f"{folder}/features.npy")[rank::size]
for first in range(0, len(rows) if rank != 1 else 0, 100):                     # rank 1 has nothing to give
    accumulator.add(rows[first:first + 100])
merged = merge_over_ranks(accumulator).moments()
np.savez(f"{folder}/{rank}.npz", mean=merged.mean, covariance=merged.covariance, count=merged.count)
dist.destroy_process_group()
"""


def test_ranks_agree_to_the_bit(features, tmp_path):
    np.save(tmp_path / "features.npy", features)
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), "3", str(tmp_path)],
                              env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)})
             for rank in range(3)]
    assert [rank.wait(120) for rank in ranks] == [0, 0, 0]
    results = [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(3)]
    assert all((result[name] == results[0][name]).all() for result in results for name in result)
    _, covariance = exact(np.concatenate([features[0::3], features[2::3]]))
    assert abs(results[0]["covariance"] - covariance).max() <= 1e-12 * abs(covariance).max()
