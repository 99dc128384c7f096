"""The stream of training batches for one rank, from a .beton file.

The batches depend only on the file, the seed and the positions: FFCV and the memory-mapped reader, any world
size, and a restart at any image give the same samples in the same order.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ditscale.data.beton import BetonFile
from ditscale.data.ffcv_import import load_ffcv
from ditscale.data.kinds import FIELDS, kind_of
from ditscale.data.order import indices_at, rank_positions
from ditscale.errors import UserError

if TYPE_CHECKING:
    import torch

CHUNK_SAMPLES, CHUNK_STEPS = 4096, 16                                          # the least that a rank's chunk holds

Pick = Callable[[int, np.ndarray], np.ndarray]                                 # (seed, positions) to entries, of one shape


class Batch(NamedTuple):
    """One micro batch of a rank. ``raw`` is valid until the next batch is requested; the others can be kept."""

    raw: "torch.Tensor"                                                        # as stored: pixels uint8 (b, C, H, W)
    labels: "torch.Tensor"                                                     # int64 (b,)
    positions: "torch.Tensor"                                                  # int64 (b,), positions in the global stream


class StreamLoader:
    """The stream of one rank from image ``start_images`` to ``end_images``, in whole global batches: iterates over ``Batch``.

    A last global batch that would pass ``end_images`` is left out. Every optimizer step yields
    ``global_batch / world_size / micro_batch`` micro batches, contiguous in the rank's slice. Each ``iter()`` starts at the first
    image and ends the previous one; close it when done.

    Args:
        path: a .beton file of pixels or of latents, with a field 'label' (integer).
        backend: "ffcv"; "mmap", which needs numpy only; or "auto", FFCV if it can be imported.
        pick: which entry of the first axis of what is stored is read, for each position: of two flips, the one that is used.
            Without it, all entries are read.

    Attributes:
        backend: "ffcv" or "mmap", the one in use.
        reason: why "auto" fell back to "mmap", else None.

    Raises:
        UserError: the file cannot be used, the batch does not divide, or FFCV is requested and cannot be imported.
    """

    def __init__(self, path, *, seed: int, global_batch: int, micro_batch: int, rank: int = 0, world_size: int = 1,
                 start_images: int = 0, end_images: int, backend: str = "auto", pick: Pick | None = None):
        self._file, self._pick = BetonFile(path), pick
        self._running: Generator[Batch] | None = None
        field = FIELDS[kind_of(self._file)]
        if global_batch % (micro_batch * world_size):
            raise UserError(f"global_batch {global_batch} is not a multiple of micro_batch {micro_batch} x {world_size} "
                            f"ranks = {micro_batch * world_size}")
        if end_images < start_images:
            raise UserError(f"the run is to end at image {end_images} but starts at image {start_images}")
        if backend not in ("auto", "ffcv", "mmap"):
            raise UserError(f"loader '{backend}' is not one of auto, ffcv, mmap")
        ffcv_backend, self.reason = (None, None) if backend == "mmap" else load_ffcv()
        if backend == "ffcv" and ffcv_backend is None:
            raise UserError(f"{self.reason}; `ditscale doctor` shows how to fix it, or use the loader 'mmap'")
        self.backend = "ffcv" if ffcv_backend else "mmap"
        self._source = ffcv_backend.FfcvSource(self._file, field, micro_batch, bool(pick)) if ffcv_backend else MmapSource(self._file, field)
        self.seed, self.micro_batch, self.global_batch, self.rank, self.world_size = seed, micro_batch, global_batch, rank, world_size
        self.start_images, self.num_steps = start_images, (end_images - start_images) // global_batch

    def __len__(self) -> int:
        """Micro batches in the stream."""
        return self.num_steps * (self.global_batch // self.world_size // self.micro_batch)

    def __iter__(self):
        self.close()
        self._running = self._stream()
        return self._running

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """End the current iteration, and FFCV's thread with it."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _stream(self) -> "Generator[Batch]":
        """Chunk by chunk: FFCV takes the order of a chunk as a whole and decodes it in a separate thread."""
        import torch

        share = self.global_batch // self.world_size
        chunk_steps = max(CHUNK_STEPS, -(-CHUNK_SAMPLES // share))
        for step in range(0, self.num_steps, chunk_steps):
            first, steps = self.start_images + step * self.global_batch, min(chunk_steps, self.num_steps - step)
            positions = rank_positions(first, steps, self.global_batch, self.rank, self.world_size)
            positions = positions.reshape(-1, self.micro_batch)                # (micro batches, b)
            indices = indices_at(positions, self._file.num_samples, self.seed)
            labels = self._file.read("label", indices)
            parts = self._pick(self.seed, positions) if self._pick else None
            with closing(self._source.batches(indices, parts)) as batches:
                for row, raw, named in zip(positions, batches, labels):
                    yield Batch(raw, torch.from_numpy(named.copy()), torch.from_numpy(row.copy()))


class MmapSource:
    """Batches of a field gathered from the memory map, in the caller's thread."""

    def __init__(self, file: BetonFile, field: str):
        self._file, self._field = file, field

    def batches(self, indices: np.ndarray, parts: np.ndarray | None):
        """Yields what is stored for each row of dataset indices, shape (number, batch size), and of parts if any."""
        import torch

        for row, part in zip(indices, [None] * len(indices) if parts is None else parts):
            yield torch.from_numpy(self._file.read(self._field, row, part))
