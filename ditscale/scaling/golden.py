"""Golden-section search on whole numbers: the lowest of many scores that have one minimum, from few of them."""

import math
from collections.abc import Callable
from functools import cache

GOLDEN = (3 - math.sqrt(5)) / 2


def descend(points: int, score: Callable[[int], float]) -> int:
    """The index from 0 to ``points`` - 1 of the lowest score, if there is one minimum: golden section on whole numbers. ``score`` should remember."""
    low, high = 0, points - 1
    while high - low > 2:
        left, right = _inner(low, high)
        if score(left) <= score(right):
            high = right
        else:
            low = left
    return min(range(low, high + 1), key=score)


def _inner(low: int, high: int) -> tuple[int, int]:
    step = max(1, round(GOLDEN * (high - low)))
    return (low + step, high - step) if low + step < high - step else (low + step - 1, high - step + 1)


@cache
def most_points(points: int) -> int:
    """The most points that ``descend`` asks for, over all outcomes."""
    def most(low: int, high: int, asked: frozenset[int]) -> int:
        if high - low <= 2:
            return len(asked | set(range(low, high + 1)))
        left, right = _inner(low, high)
        asked = asked | {left, right}
        return max(most(low, right, asked), most(left, high, asked))
    return most(0, points - 1, frozenset())
