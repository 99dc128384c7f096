"""A worker's start until the first step: log and status show what it waits for, and a stop ends it at once."""

import os
import threading
import time
from collections.abc import Callable

from ditscale.config import RunConfig
from ditscale.errors import TrainingFailed
from ditscale.rundir import BEFORE_FIRST, FAILED, PREEMPTED, RUNNING, RunDir
from ditscale.training.preemption import EXIT_CODE, StopRequest

FIRST, LONGEST = 10, 60                                                        # seconds without a message: before the first one, and at most
TOO_SHORT = ("this start reached its time limit before it had trained a step or finished a score, and so would the next; "
             "give a start more time, or lower evaluation.samples")


class Start:
    """A worker's start up to its first step: reports what it waits for, and ends at once on a stop, as there is nothing to save.

    ``job``: see StopRequest.
    """

    def __init__(self, run: RunDir, keeps_status: bool, job: tuple[float, float] | None = None):
        self.run, self.keeps_status, self.job = run, keeps_status, job
        self.stop: StopRequest | None = None
        self.found = sorted(run.checkpoints.glob("images-*"))
        self.words = Words(self._tell) if keeps_status else None

    def listen(self, config: RunConfig) -> StopRequest:
        """Handles signals from here on."""
        resources = config.resources
        self.stop = StopRequest(resources.time_limit_minutes, resources.time_margin_minutes, leave=self._leave, job=self.job)
        self._set(RUNNING)
        return self.stop

    def now(self, what: str) -> None:
        """Sets the current activity."""
        if self.words:
            self.words.now(what)

    def end(self) -> None:
        """Called when the first step is done, or if there is none."""
        if self.stop is not None:                                              # its truth value would count as a check
            if self.stop.is_starting and self.stop.reason:                     # the error was caused by the signal, perhaps in a child process
                self._leave(self.stop.reason)
            self.stop.end_start()
        if self.words and self.words.end():
            self._set(RUNNING)
        self.words = None

    def lost_a_rank(self, error: Exception) -> bool:
        """Whether the error was caused by another rank that left at the same stop, around its first step; sets the status then."""
        was_asked = self.stop is not None and self.stop.reason
        if not was_asked or int(os.environ.get("WORLD_SIZE", "1")) == 1 or self.has_saved():
            return False
        if not isinstance(error, RuntimeError) or isinstance(error, TrainingFailed):
            return False
        self._set(PREEMPTED, f"{self.stop.reason}, {BEFORE_FIRST} checkpoint")
        return True

    def has_saved(self) -> bool:
        """Whether this start has written a checkpoint."""
        return sorted(self.run.checkpoints.glob("images-*")) != self.found

    def _tell(self, words: str) -> None:
        if self.stop is not None:
            self._set(RUNNING, words)
        print(words, flush=True)

    def _leave(self, reason: str) -> None:
        code = 2 if self.stop.had_its_time else EXIT_CODE
        try:
            if code == EXIT_CODE:
                self._set(PREEMPTED, f"{reason}, {BEFORE_FIRST} step")
                print(f"{reason} before the first step: nothing to save, ends here", flush=True)
            else:
                self._set(FAILED, TOO_SHORT)
                print(f"error: {TOO_SHORT}", flush=True)
        finally:
            os._exit(code)                                                     # the main thread may be in a call that never returns

    def _set(self, state: str, reason: str = "") -> None:
        if self.keeps_status:
            self.run.set_status(state, images_seen=self.run.status()["images_seen"], reason=reason)


class Words:
    """Until ``end``: reports after 10 seconds, 20 more, 40 more, then each minute, what is going on and for how long.

    Args:
        tell: receives the message, "starting: waiting for 4 ranks, 0:30 so far".
    """

    def __init__(self, tell: Callable[[str], None]):
        self.tell, self.what, self.began, self.has_told = tell, "", time.monotonic(), False
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._say, daemon=True)
        self.thread.start()

    def now(self, what: str) -> None:
        """Sets the current activity to ``what``."""
        self.what = what

    def end(self) -> bool:
        """Stops reporting; returns whether anything was reported. Calling it again does nothing."""
        self.over.set()
        self.thread.join()
        return self.has_told

    def _say(self) -> None:
        pause = FIRST
        while not self.over.wait(pause):
            minutes, seconds = divmod(round(time.monotonic() - self.began), 60)
            self.has_told = True
            self.tell(f"starting: {self.what}, {minutes}:{seconds:02d} so far")
            pause = min(2 * pause, LONGEST)
