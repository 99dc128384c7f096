"""When to stop early: on SIGTERM, SIGUSR1 or SIGINT, and when the launcher that started us is gone."""

import os
import signal
import threading
import time

LAUNCHER_PID = "DITSCALE_LAUNCHER_PID"                                         # set by a launcher on the same machine
EXIT_CODE = 75                                                                 # EX_TEMPFAIL: try again later


class StopRequest:
    """Raised by a signal or by the launcher's death; the loop looks at it once a step and saves a checkpoint."""

    def __init__(self):
        self.reason = ""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if LAUNCHER_PID in os.environ:
            threading.Thread(target=self._watch, args=(int(os.environ[LAUNCHER_PID]),), daemon=True).start()

    def __bool__(self) -> bool:
        return bool(self.reason)

    def _on_signal(self, number, frame) -> None:
        self.reason = self.reason or signal.Signals(number).name

    def _watch(self, launcher: int) -> None:
        while os.path.exists(f"/proc/{launcher}"):
            time.sleep(1)
        self.reason = self.reason or "the launcher is gone"
