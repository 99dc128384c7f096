"""Worker processes for building data. They start immediately, while the caller still lists the work."""

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from ditscale.errors import UserError


class Workers:
    """``with Workers(2) as workers: workers.each(function, tasks)``, which is called once. One worker is this process itself.

    Processes are spawned, not forked, so that nothing such as torch's threads is copied into them. That takes half a second.
    """

    def __init__(self, count: int):
        self._pool = ProcessPoolExecutor(count, get_context("spawn"), _start_worker, (os.getpid(),)) if count > 1 else None

    def __enter__(self):
        if self._pool:
            self._pool.submit(os.getpid)                                        # the first task of all starts every process
            self._end = threading.Thread(target=self._pool.shutdown, kwargs={"cancel_futures": True})
        return self

    def __exit__(self, *_):
        if self._pool:
            self._finish()
            self._end.join()

    def each(self, function, tasks: list):
        """Yields (number of the task, ``function(task)``) as they finish; then the processes end."""
        if self._pool is None or len(tasks) <= 1:
            yield from ((number, function(task)) for number, task in enumerate(tasks))
            return
        try:
            numbers = {self._pool.submit(function, task): number for number, task in enumerate(tasks)}
            for future in as_completed(numbers):
                yield numbers.pop(future), future.result()
        except BrokenProcessPool:
            raise UserError("a worker process died (out of memory?). Finished work is kept; start again with fewer "
                            "--workers") from None
        finally:
            self._finish()

    def _finish(self) -> None:
        """Let the processes finish their current task and end, without waiting."""
        if not self._end.ident:
            self._end.start()


def _start_worker(parent: int) -> None:
    """A worker ignores Ctrl-C, which its parent handles, and ends when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
