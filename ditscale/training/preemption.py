"""When to stop early: on SIGTERM, SIGUSR1 or SIGINT, before the time limit, and when the launcher that started us is gone."""

import os
import signal
import threading
import time

LAUNCHER_PID = "DITSCALE_LAUNCHER_PID"                                         # set by a launcher on the same machine
BEGIN, DEADLINE = "SLURM_JOB_START_TIME", "SLURM_JOB_END_TIME"                 # seconds since 1970, set by SLURM
EXIT_CODE = 75                                                                 # EX_TEMPFAIL: try again later


class StopRequest:
    """Raised by a signal, by the clock, or by the launcher's death; training looks at it once a step and saves a checkpoint,
    scoring once a batch of images.

    Args:
        minutes: how long this start may take, None for no limit; SLURM's own limit is found in its environment.
        margin_minutes: how long before the limit to stop; a checkpoint must fit in.
    """

    def __init__(self, minutes: float | None = None, margin_minutes: float = 0.0):
        self.reason, self.began = "", time.time()
        limits = [(self.began, self.began + 60 * minutes)] if minutes else []
        if os.environ.get(DEADLINE):
            limits.append((float(os.environ.get(BEGIN) or "-inf"), float(os.environ[DEADLINE])))
        self.since, end = min(limits, key=lambda limit: limit[1], default=(None, None))
        self.deadline = None if end is None else end - 60 * margin_minutes
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if LAUNCHER_PID in os.environ:
            threading.Thread(target=self._watch, args=(int(os.environ[LAUNCHER_PID]),), daemon=True).start()

    def __bool__(self) -> bool:
        if self.deadline is not None and time.time() > self.deadline:
            self.reason = self.reason or "the time limit is near"
        return bool(self.reason)

    @property
    def had_its_time(self) -> bool:
        """Whether the limit is near, and this start had most of the time up to it; not one that came late into a SLURM job.

        SLURM's signal for the limit may come a minute early.
        """
        now = time.time()
        return self.deadline is not None and now > self.deadline - 60 and now - self.began > (now - self.since) / 2

    def _on_signal(self, number, frame) -> None:
        self.reason = self.reason or signal.Signals(number).name

    def _watch(self, launcher: int) -> None:
        while os.path.exists(f"/proc/{launcher}"):
            time.sleep(1)
        self.reason = self.reason or "the launcher is gone"
