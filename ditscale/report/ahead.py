"""Figures drawn next to one another, in processes that are copies of this one, while the page is written: the same files and bytes.

A copy (fork) has the study's table without reading it again. Where none can be made, or there is one core, figures are drawn in turn.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

from ditscale.errors import UserError

_JOBS: dict[str, Callable[[], Any]] = {}                                       # of the copies: functions do not travel between processes


@contextmanager
def drawn(jobs: Mapping[str, Callable[[], Any]]) -> Iterator[Callable[[str], Any]]:
    """Starts the jobs, the first ones first; yields what waits for one by its name and returns its result, or raises its UserError."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if min(cores, len(jobs)) < 2 or threading.active_count() > 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield lambda name: jobs[name]()
        return
    _JOBS.update(jobs)
    executor = ProcessPoolExecutor(min(cores, len(jobs)), multiprocessing.get_context("fork"))
    futures: dict[str, Future] = {}
    try:
        with suppress(OSError):                                                # no memory for a copy: drawn here instead
            futures |= {name: executor.submit(_do, name) for name in jobs}

        def wait(name: str) -> Any:
            try:
                result, refused = futures[name].result() if futures else _do(name)
            except BrokenProcessPool:                                          # killed, for memory as a rule
                result, refused = _do(name)
            if refused is not None:
                raise UserError(refused)
            return result
        yield wait
    finally:
        executor.shutdown(cancel_futures=True)
        _JOBS.clear()


def _do(name: str) -> tuple[Any, str | None]:
    """The result, or why there is none; any other error goes its way."""
    try:
        return _JOBS[name](), None
    except UserError as error:
        return None, str(error)
