import resource
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from ditscale.data import loader as loader_module
from ditscale.data.beton import write_beton
from ditscale.data.loader import Batch, StreamLoader
from ditscale.data.order import indices_at
from ditscale.errors import UserError


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Chunks of 3 steps, so that small streams cross many."""
    monkeypatch.setattr(loader_module, "CHUNK_SAMPLES", 1)
    monkeypatch.setattr(loader_module, "CHUNK_STEPS", 3)


def collect(loader):
    """Everything a loader yields, as three arrays; every micro batch has the size asked for."""
    with loader:
        batches = [Batch(raw.clone(), labels, positions) for raw, labels, positions in loader]
    assert len(batches) == len(loader) and {len(batch.positions) for batch in batches} <= {loader.micro_batch}
    return [torch.cat(part).numpy() for part in zip(*batches)]


def test_yields_the_source_bit_for_bit(stored, backend):
    loader = StreamLoader(stored.path, seed=7, global_batch=8, micro_batch=4, end_images=205, backend=backend)
    assert loader.backend == backend and loader.reason is None
    images, labels, positions = collect(loader)
    assert images.dtype == np.uint8 and labels.dtype == np.int64 and positions.dtype == np.int64
    assert (positions == np.arange(200)).all()                                 # 205 rounded down to whole batches of 8
    indices = indices_at(positions, 45, seed=7)                                # four epochs and a part
    assert (images == stored.images[indices]).all() and (labels == stored.labels[indices]).all()


def test_ranks_share_one_stream(stored, backend):
    options = {"seed": 1, "global_batch": 8, "start_images": 5, "end_images": 5 + 8 * 7, "backend": backend}
    _, labels, positions = collect(StreamLoader(stored.path, micro_batch=8, **options))
    for world_size in (2, 4):
        parts = [collect(StreamLoader(stored.path, micro_batch=2, rank=rank, world_size=world_size, **options))[1:]
                 for rank in range(world_size)]
        for whole, shares in zip((labels, positions), zip(*parts)):
            assert (np.concatenate([share.reshape(7, -1) for share in shares], axis=1).reshape(-1) == whole).all()


@pytest.mark.parametrize("start", [1, 88])
def test_restart_at_any_image(stored, backend, start):
    options = {"seed": 3, "global_batch": 4, "micro_batch": 2, "backend": backend}
    _, labels, positions = collect(StreamLoader(stored.path, start_images=start, end_images=100, **options))
    assert positions[0] == start and len(positions) == (100 - start) // 4 * 4
    assert (labels == stored.labels[indices_at(positions, 45, seed=3)]).all()


def test_a_batch_stays_valid_until_the_next_and_iter_starts_again(stored, backend):
    loader_module.CHUNK_STEPS = 25                                             # FFCV has five buffers a chunk
    with StreamLoader(stored.path, seed=0, global_batch=4, micro_batch=4, end_images=100, backend=backend) as loader:
        next(iter(loader))
        count = 0
        for raw, labels, positions in loader:
            indices = indices_at(positions, 45, seed=0)
            if count in (0, 3, 11):
                time.sleep(0.3)                                                # the reader fills all that it may
            assert (raw.numpy() == stored.images[indices]).all() and (labels.numpy() == stored.labels[indices]).all()
            count += 1
        assert count == 25


def test_nothing_left_to_do(stored, backend):
    with StreamLoader(stored.path, seed=0, global_batch=8, micro_batch=8, start_images=64, end_images=71,
                     backend=backend) as loader:
        assert list(loader) == [] and len(loader) == 0


def test_fields_are_told_apart_by_name(tmp_path, backend):
    fields = {"label": np.arange(12), "latent": np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32),
              "image": np.random.default_rng(1).integers(0, 256, (12, 3, 4, 5), dtype=np.uint8)}
    write_beton(tmp_path / "x.beton", fields)
    loader = StreamLoader(tmp_path / "x.beton", seed=0, global_batch=4, micro_batch=4, end_images=12, backend=backend)
    images, labels, _ = collect(loader)
    assert (images == fields["image"][labels]).all() and sorted(labels) == list(range(12))


def test_what_does_not_fit_is_refused_before_anything_starts(stored, tmp_path):
    options = {"seed": 0, "global_batch": 8, "micro_batch": 4, "end_images": 80, "backend": "mmap"}
    with pytest.raises(UserError, match="global_batch 8 is not a multiple of micro_batch 3 x 2 ranks = 6"):
        StreamLoader(stored.path, **options | {"micro_batch": 3, "world_size": 2})
    with pytest.raises(UserError, match="end at image 80 but starts at image 88"):
        StreamLoader(stored.path, **options, start_images=88)
    with pytest.raises(UserError, match="not one of auto, ffcv, mmap"):
        StreamLoader(stored.path, **options | {"backend": "torch"})
    write_beton(tmp_path / "x.beton", {"image": np.zeros((3, 4, 4), np.uint8), "label": np.arange(3)})
    with pytest.raises(UserError, match="x.beton: needs fields 'image' .* has 'image' \\(uint8 \\(4, 4\\)\\), 'label'"):
        StreamLoader(tmp_path / "x.beton", **options)


def test_ffcv_leaves_torch_its_threads(stored, ffcv_backend):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with StreamLoader(stored.path, seed=0, global_batch=4, micro_batch=4, end_images=40, backend="ffcv") as loader:
            for _ in loader:
                assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_no_thread_is_left(stored, ffcv_backend):
    before = threading.active_count()
    with StreamLoader(stored.path, seed=0, global_batch=1, micro_batch=1, end_images=150, backend="ffcv") as loader:
        assert max(threading.active_count() for _ in loader) <= before + 1     # 50 chunks of 3 images
        assert threading.active_count() == before
    loader_module.CHUNK_STEPS = 10_000                                         # the fixture puts it back
    for left_after in (1, 20):
        with StreamLoader(stored.path, seed=0, global_batch=1, micro_batch=1, end_images=999, backend="ffcv") as loader:
            for count, _ in enumerate(loader, start=1):
                if count == left_after:
                    break
        assert threading.active_count() == before


def test_200_epochs_leave_no_thread_and_no_memory(latents, backend):
    """Each epoch of 45 is a new chunk with a thread and buffers of its own."""
    def resident_mib():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20

    loader_module.CHUNK_STEPS = 5
    with StreamLoader(latents, seed=0, global_batch=9, micro_batch=9, end_images=200 * 45, backend=backend) as loader:
        threads, resident = set(), []
        for number, _ in enumerate(loader):
            if number % 5 == 3:                                                # in the middle of an epoch
                threads.add(threading.active_count())
                resident.append(resident_mib())
    assert len(resident) == 200 and max(threads) - min(threads) <= 1           # FFCV's own may have read all and ended
    assert max(resident) - resident[20] < 8                                    # MiB; a leak of one batch an epoch would be 4


def test_a_dead_ffcv_thread_raises(stored, ffcv_backend, monkeypatch):
    def fail_at_the_third(self, number, *rest):
        if number == 2:
            raise OSError("disk on fire")
        return run_pipeline(self, number, *rest)

    run_pipeline = ffcv_backend.Chunk.run_pipeline
    monkeypatch.setattr(ffcv_backend.Chunk, "run_pipeline", fail_at_the_third)
    outcome = []

    def consume():
        try:
            options = {"seed": 0, "global_batch": 1, "micro_batch": 1, "end_images": 9, "backend": "ffcv"}
            with StreamLoader(stored.path, **options) as loader:
                outcome.extend(batch.positions.item() for batch in loader)
        except RuntimeError as error:
            outcome.append(error)

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    consumer.join(timeout=30)
    assert not consumer.is_alive(), "the consumer waits for a dead thread"
    *positions, error = outcome
    assert positions == [] or positions == [0, 1]
    assert str(stored.path) in str(error) and "disk on fire" in str(error) and isinstance(error.__cause__, OSError)


def test_without_ffcv_the_memory_map_takes_over(stored):
    program = f"""
import sys
sys.modules["ffcv"] = None                                                     # import ffcv now raises ImportError
from ditscale.data.loader import Batch, StreamLoader
from ditscale.data.ffcv_import import build_beton
from ditscale.errors import UserError
import numpy
options = dict(seed=0, global_batch=4, micro_batch=4, end_images=40)
with StreamLoader({str(stored.path)!r}, **options) as loader:
    print(loader.backend, "|", loader.reason, "|", sum(1 for _ in loader))
try:
    StreamLoader({str(stored.path)!r}, **options, backend="ffcv")
except UserError as error:
    print(error)
print(build_beton({str(stored.path.with_name("numpy.beton"))!r}, {{"label": numpy.arange(3)}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].startswith("mmap | ffcv does not import: ") and lines[0].endswith("| 10")
    assert "ffcv does not import" in lines[1] and "mmap" in lines[1]
    assert lines[2] == "numpy"
