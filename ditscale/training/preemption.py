"""When to stop early: on SIGTERM, SIGUSR1 or SIGINT, before the time limit, and when the launcher has died."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable

LAUNCHER_PID = "DITSCALE_LAUNCHER_PID"                                         # set by a launcher on the same machine
EXIT_CODE = 75                                                                 # EX_TEMPFAIL: try again later
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Raised by a signal, by the clock, or by the launcher's death; training looks at it once a step and saves a checkpoint,
    scoring once a batch of images.

    Until it is asked for the first time the start is still going on: ranks are waited for, a model is compiled. Nothing is there to
    be saved, and Python's handlers may not run for minutes, so another thread calls ``leave`` then.

    Args:
        minutes: how long this start may take, None for no limit.
        margin_minutes: how long before the limit to stop; a checkpoint must fit in.
        leave: ends this process, given the reason; None lets a start go on to its first step.
        job: when the queue's job that this is part of began and when its own limit is, in seconds since 1970.
    """

    def __init__(self, minutes: float | None = None, margin_minutes: float = 0.0, leave: Callable[[str], None] | None = None,
                 job: tuple[float, float] | None = None):
        self.reason, self.began, self.leave = "", time.time(), leave
        self.is_starting, self.turn = leave is not None, threading.Lock()
        limits = [(self.began, self.began + 60 * minutes)] if minutes else []
        if job:
            limits.append(job)
        self.since, end = min(limits, key=lambda limit: limit[1], default=(None, None))
        self.deadline = None if end is None else end - 60 * margin_minutes
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        if leave:
            self.heard, self.told = socket.socketpair()
            self.told.setblocking(False)
            signal.set_wakeup_fd(self.told.fileno(), warn_on_full_buffer=False)  # written by the C handler, whatever Python is at
            threading.Thread(target=self._listen, daemon=True).start()
        if LAUNCHER_PID in os.environ:
            threading.Thread(target=self._watch, args=(int(os.environ[LAUNCHER_PID]),), daemon=True).start()

    def __bool__(self) -> bool:
        self.end_start()
        if self.deadline is not None and time.time() > self.deadline:
            self.reason = self.reason or "the time limit is near"
        return bool(self.reason)

    @property
    def had_its_time(self) -> bool:
        """Whether the limit is near, and this start had most of the time up to it; not one that came late into a job.

        A queue's signal for the limit may come a minute early.
        """
        now = time.time()
        return self.deadline is not None and now > self.deadline - 60 and now - self.began > (now - self.since) / 2

    def end_start(self) -> None:
        """From here on a stop is found by asking."""
        if self.is_starting:
            with self.turn:
                self.is_starting = False
            signal.set_wakeup_fd(-1)
            self.told.close()

    def _listen(self) -> None:
        while numbers := self.heard.recv(64):
            for number in numbers:
                if number in SIGNALS:
                    self._leave_start(signal.Signals(number).name)
        self.heard.close()

    def _leave_start(self, reason: str) -> None:
        self.reason = self.reason or reason
        with self.turn:
            if self.is_starting:
                self.leave(self.reason)

    def _on_signal(self, number, frame) -> None:
        self.reason = self.reason or signal.Signals(number).name

    def _watch(self, launcher: int) -> None:
        while os.path.exists(f"/proc/{launcher}"):
            time.sleep(1)
        self._leave_start("the launcher is gone")
