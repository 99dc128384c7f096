"""A loss that jumps out of what it was lately. Pure Python."""

import math
import statistics
from collections import deque


class Spikes:
    """Tells of a value far above the last ones: the median plus ``deviations`` robust standard deviations.

    The band is at least a twentieth of the median wide, so that a very quiet curve does not cry wolf.
    """

    def __init__(self, window: int = 32, needed: int = 8, deviations: float = 6.0):
        self.recent, self.needed, self.deviations = deque(maxlen=window), needed, deviations

    def add(self, value: float) -> bool:
        """Whether the value is a spike; it then counts among the recent ones like any other. NaN is left out."""
        if math.isnan(value):
            return False
        spike = len(self.recent) >= self.needed and value > self._limit()
        self.recent.append(value)
        return spike

    def _limit(self) -> float:
        middle = statistics.median(self.recent)
        spread = 1.4826 * statistics.median(abs(value - middle) for value in self.recent)
        return middle + max(self.deviations * spread, abs(middle) / 20)
