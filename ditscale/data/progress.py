"""Progress of a long job: a bar on a terminal, otherwise a line every 10 seconds. On stderr, because results go to stdout."""

import sys
import time
from typing import Any

PLAIN_SECONDS = 10                                                              # between two lines


class Progress:
    """``with Progress("images", total) as progress: progress.advance(n)``; ``progress.say(line)`` in between.

    Speed and time left count from the start of this job: ``done`` is the work finished before.
    """

    def __init__(self, what: str, total: int, *, done: int = 0, stream=None):
        self._what, self._total, self._found, self._done = what, total, done, done
        self._stream = stream or sys.stderr
        self._bar: Any = None                                                   # rich's, on a terminal

    def __enter__(self):
        self._start = self._said = time.monotonic()
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress as Bar, TextColumn

            self._bar = Bar(BarColumn(), TextColumn("{task.description}"), console=Console(file=self._stream), transient=True)
            self._task = self._bar.add_task(self._line(), total=self._total, completed=self._done)
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()

    def advance(self, count: int) -> None:
        self._done += count
        if self._bar:
            self._bar.update(self._task, completed=self._done, description=self._line())
        elif time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            self.say(self._line())

    def say(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._stream, flush=True)

    def _line(self) -> str:
        """``12,000 of 50,000 images, 3,100 images/s, 12 s left``."""
        made, seconds = self._done - self._found, time.monotonic() - self._start
        line = f"{self._done:,} of {self._total:,} {self._what}"
        if not made or not seconds:
            return line
        return f"{line}, {made / seconds:,.0f} {self._what}/s, {duration((self._total - self._done) * seconds / made)} left"


def duration(seconds: float) -> str:
    """``12 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def outcome(seconds: float, made: bool) -> str:
    """Whether a command wrote its file or found it, for its summary."""
    return f"written in {duration(seconds)}" if made else "already there, checked"
