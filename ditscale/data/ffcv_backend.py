"""The interface to FFCV: its loader as a source of batches, and its writer. Import it through ``load_ffcv``.

Behavior of FFCV that a training run cannot accept, and what this module does about it:

* Its loader thread may die of an exception while the consumer waits forever: ``Chunk`` passes the exception on.
* An iterator that is left early keeps its thread: ``Chunk.stop`` ends it.
* Its loader sets torch's number of threads, for the whole process; here it does not, see ``_set_numba_threads``.
* It makes Python sets of every sample when it opens a file: ``LeanCache`` does not.
* Its writer forks workers and waits forever when one dies (full disk): ``Writer`` does the same work in this process.
"""

import ctypes
import functools
import multiprocessing
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import ffcv.loader.loader
import numba
import numpy as np
from ffcv.fields import IntField, NDArrayField
from ffcv.fields.decoders import NDArrayDecoder
from ffcv.libffcv import memcpy
from ffcv.loader import Loader, OrderOption
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.memory_allocator import MemoryAllocator
from ffcv.memory_managers.os_cache import OSCacheContext, OSCacheManager
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter

from ditscale.data.beton import BetonFile, field_specs, fitting_page_size


def _set_numba_threads(compiler, count: int) -> None:
    compiler.num_threads = count
    numba.set_num_threads(count)


Compiler.set_num_threads = classmethod(_set_numba_threads)                     # FFCV's also calls torch.set_num_threads


class LeanCache(OSCacheManager):
    """FFCV's reader through the page cache, without the Python sets and dicts it makes of every sample.

    Only other cache managers and traversal orders read those. At 1.28 million samples they take about 0.8 GB.
    """

    def __init__(self, reader):
        order = np.argsort(reader.alloc_table["ptr"], kind="stable")
        self.reader, self.context = reader, OSCacheContext(self)
        self.ptrs, self.sizes = reader.alloc_table["ptr"][order], reader.alloc_table["size"][order]


ffcv.loader.loader.OSCacheManager = LeanCache                                  # a name that Loader looks up when it is made


class PartDecoder(NDArrayDecoder):
    """One entry of an array's first axis. FFCV hands a decoder one number per sample: index x entries + entry."""

    def declare_state_and_memory(self, previous_state):
        shape, dtype = self.field.shape[1:], self.field.dtype
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self):
        rows, read, copy = Compiler.get_iterator(), self.memory_read, Compiler.compile(memcpy)
        entries = self.field.shape[0]
        size = int(self.field.element_size) // entries

        def decode(numbers, destination, metadata, storage_state):
            for row in rows(len(numbers)):
                sample, entry = numbers[row] // entries, numbers[row] % entries
                record = read(metadata[sample], storage_state)
                copy(record[entry * size:(entry + 1) * size], destination[row].view(np.uint8))
            return destination

        return decode


class FfcvSource:
    """Batches of one array field of a .beton file, or of one entry of each array (``parts``), decoded ahead by FFCV's thread."""

    def __init__(self, file: BetonFile, field: str, batch_size: int, parts: bool):
        pipelines = dict.fromkeys(file.fields)                       # None: not loaded
        pipelines[field] = [PartDecoder() if parts else NDArrayDecoder(), ToTensor()]
        self._entries = file.fields[field].shape[0]
        self._loader = Loader(str(file.path), batch_size, num_workers=1, os_cache=True, order=OrderOption.SEQUENTIAL,
                              drop_last=True, pipelines=pipelines)
        # One chunk's buffers serve the next, as its thread has ended: allocating new memory costs more than filling it.
        self._loader.graph.allocate_memory = functools.cache(self._loader.graph.allocate_memory)

    def batches(self, indices: np.ndarray, parts: np.ndarray | None):
        """Yields what is stored for each row of dataset indices, shape (number, batch_size), and of parts if any.

        It is FFCV's own buffer. Of its five, three lie in the queue and one is being filled, so this one stays valid
        only until the next batch is requested.

        Raises:
            RuntimeError: FFCV's thread died; its exception is the cause.
        """
        numbers = indices if parts is None else indices * self._entries + parts
        chunk = Chunk(self._loader, numbers.reshape(-1))
        try:
            for _ in range(len(indices)):
                (raw,) = chunk.take()
                yield raw
        finally:
            chunk.stop()


class Chunk(EpochIterator):
    """FFCV's iterator and loader thread over a given order of samples.

    Made directly and not through ``iter(loader)``, which would truncate every order to the length of the first.
    """

    error: BaseException | None = None

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self.error = error
            self.output_queue.put(None)                                        # FFCV's end mark: wakes the consumer

    def take(self):
        """The next batch; waits for it."""
        try:
            return next(self)
        except StopIteration:
            raise RuntimeError(f"{self.loader.fname}: FFCV's loader thread died: {self.error!r}") from self.error

    def stop(self) -> None:
        """End the thread, whatever it is doing."""
        self.close()
        self.iter_ixes = iter(())                                              # no further batch
        while self.is_alive():
            try:
                self.output_queue.get_nowait()                                 # it may be waiting to enqueue one
            except Empty:
                self.join(timeout=0.001)


class Writer(DatasetWriter):
    """FFCV's writer, run in this process: an error is raised, no progress bar is drawn."""

    def _write_common(self, num_samples, queue_content, work_fn, extra_worker_args):
        self.num_samples = num_samples
        self.prepare()
        work, allocations = SimpleQueue[Any](), SimpleQueue[Any]()
        for item in (*queue_content, None):                                    # None ends the work
            work.put(item)
        try:
            work_fn(work, self.metadata_sm, self.metadata_type, self.fields,
                    MemoryAllocator(self.fname, self.data_region_start, self.page_size),
                    multiprocessing.Value(ctypes.c_uint64, 0), allocations, *extra_worker_args)
            self.finalize(allocations.get())
            self.metadata_sm.close()
        finally:
            self.metadata_sm.unlink()


class _Samples:
    """Arrays as the indexable dataset that FFCV's writer takes."""

    def __init__(self, fields: dict[str, np.ndarray], specs):
        self.columns = [np.asarray(values, dtype=specs[name].dtype) for name, values in fields.items()]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int):
        return tuple(column[index] for column in self.columns)


def write_with_ffcv(path, fields: dict[str, np.ndarray]) -> None:
    """Write the file in place, see ``ditscale.data.ffcv_import.build_beton``."""
    specs = field_specs(path, fields)
    kinds = {name: IntField() if spec.is_int else NDArrayField(spec.dtype, spec.shape) for name, spec in specs.items()}
    writer = Writer(str(path), kinds, page_size=fitting_page_size(specs), num_workers=1)
    writer.from_indexed_dataset(_Samples(fields, specs))
