"""Work next to the main thread: reading ahead of it, and hashing behind it."""

import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

AHEAD = 3                                                                      # batches that are read before they are needed


class Behind:
    """Does jobs in a separate thread, in order, and blocks the caller when more than a few are waiting."""

    def __enter__(self):
        self._pool, self._pending = ThreadPoolExecutor(1), []
        return self

    def __exit__(self, *_):
        self._pool.shutdown()

    def do(self, function, *arguments) -> None:
        """Raises what an earlier job raised."""
        self._pending.append(self._pool.submit(function, *arguments))
        while len(self._pending) > 2 * AHEAD:
            self._pending.pop(0).result()

    def wait(self) -> None:
        while self._pending:
            self._pending.pop(0).result()


def read_ahead(batches: Iterator[np.ndarray]) -> Generator[np.ndarray, None, None]:
    """Yields the same batches, read by a separate thread. Its errors are raised here; it ends when this generator is closed."""
    ready: queue.Queue = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(item) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                pass

    def read() -> None:
        try:
            for batch in batches:
                put((batch, None))
                if stopped.is_set():
                    return
            put((None, None))
        except BaseException as error:                                         # any error: the consumer would wait forever
            put((None, error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        stopped.set()
        thread.join()
