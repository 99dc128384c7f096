"""When to stop early: on SIGTERM, SIGUSR1 or SIGINT, before the time limit, or if the launcher has died."""

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
    """Set by a signal, by the clock, or by the launcher's death; training checks it once per step and saves a checkpoint,
    scoring checks it once per batch of images.

    Before the first check the run is still starting: waiting for ranks, compiling a model. There is nothing to
    save, and Python's signal handlers may not run for minutes, so another thread calls ``leave``.

    Args:
        minutes: how long this start may take, None for no limit.
        margin_minutes: how long before the limit to stop; must be enough to save a checkpoint.
        leave: ends this process, given the reason; None lets a start continue to its first step.
        job: the start and the time limit of the queue's job that contains this process, in Unix time.
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
            self.receiver, self.sender = socket.socketpair()
            self.sender.setblocking(False)
            signal.set_wakeup_fd(self.sender.fileno(), warn_on_full_buffer=False)  # written by the C handler, whatever Python is doing
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
        """Whether the limit is near and this start had most of the time before it, that is, did not begin late in a job.

        A queue's signal for the limit may come a minute early.
        """
        now = time.time()
        return self.deadline is not None and now > self.deadline - 60 and now - self.began > (now - self.since) / 2

    def end_start(self) -> None:
        """From here on the training loop checks for a stop."""
        if self.is_starting:
            with self.turn:
                self.is_starting = False
            signal.set_wakeup_fd(-1)
            self.sender.close()

    def _listen(self) -> None:
        while numbers := self.receiver.recv(64):
            for number in numbers:
                if number in SIGNALS:
                    self._leave_start(signal.Signals(number).name)
        self.receiver.close()

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
