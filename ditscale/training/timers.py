"""Seconds by part of a step: of the device if there is one, otherwise of this thread."""

import time
from collections import defaultdict
from contextlib import contextmanager

import torch

from ditscale.device import is_accelerator, module_of, synchronize


class Timers:
    """``with timers("forward"): ...`` measures; ``read`` returns seconds by part and resets.

    On a GPU the work is queued: events are put into the queue and read when the interval ends, so that no step waits. Work that
    runs only on the host (``host=True``: waiting for data) is measured there.
    """

    def __init__(self, device: torch.device):
        self.device, self.is_queued = device, is_accelerator(device)
        self.seconds: dict[str, float] = defaultdict(float)
        self.events: list[tuple] = []

    @contextmanager
    def __call__(self, part: str, *, host: bool = False):
        if self.is_queued and not host:
            start, end = (module_of(self.device).Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self.events.append((part, start, end))
        else:
            start = time.perf_counter()
            yield
            self.seconds[part] += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """Seconds by part since the last call. Waits for the device."""
        if self.events:
            synchronize(self.device)
        for part, start, end in self.events:
            self.seconds[part] += start.elapsed_time(end) / 1000
        seconds, self.seconds, self.events = dict(self.seconds), defaultdict(float), []
        return seconds
