"""Mean and covariance of features, accumulated in batches, in float64.

Each batch is centered on its own mean before it is squared, and two parts are joined by the update of Chan, Golub and LeVeque
(1979): sums of raw squares would lose precision to the mean.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

ROUNDING = 1e-6                                                                # of the trace: smaller values may be rounding
BLOCK = 2048                                                                   # rows read at once


@dataclass(frozen=True)
class Moments:
    """Count (None: unknown), mean (D,) and unbiased covariance (D, D) of features."""

    count: int | None
    mean: np.ndarray
    covariance: np.ndarray

    @property
    def dimensions(self) -> int:
        return len(self.mean)

    @property
    def is_singular(self) -> bool:
        """Whether there are too few rows for a covariance of full rank."""
        return self.count is not None and self.count <= self.dimensions


def covariance_problem(matrix: np.ndarray) -> str:
    """Why a finite matrix (D, D) is not a covariance; "" if it is one within float32 rounding.

    Rounding each number to float32 moves eigenvalues by at most 6e-8 of the trace; sums in float32 by about ten times that.
    """
    variances, trace = np.diag(matrix), np.trace(matrix)
    if variances.min() < 0:
        return f"variance {variances.argmin()} is {variances.min():.3g}, below 0"
    if (gap := abs(matrix - matrix.T).max()) > ROUNDING * max(variances.max(), np.finfo(np.float64).tiny):
        return f"it is asymmetric by up to {gap:.3g}"
    try:
        np.linalg.cholesky((matrix + matrix.T) / 2 + ROUNDING * trace * np.eye(len(matrix)))    # takes a tenth of an eigendecomposition
    except np.linalg.LinAlgError:
        least = np.linalg.eigvalsh(matrix).min()
        if least < -ROUNDING * trace:
            return f"its smallest eigenvalue is {least:.3g}, below 0"
    return ""


class Accumulator:
    """Accumulates moments. Rows are buffered until a block is full, as a join processes (D, D) numbers for any number of rows."""

    def __init__(self, dimensions: int):
        self._count, self._mean, self._scatter = 0, np.zeros(dimensions), np.zeros((dimensions, dimensions))
        self._waiting: list[np.ndarray] = []

    @property
    def dimensions(self) -> int:
        return len(self._mean)

    def add(self, features: np.ndarray) -> None:
        """Adds a batch of features (B, D)."""
        self._waiting.append(np.array(features, dtype=np.float64))
        if sum(map(len, self._waiting)) >= BLOCK:
            self._take_up()

    def merge(self, other: "Accumulator") -> None:
        """Adds all rows of another accumulator, which is unchanged."""
        self._join(*other.state())

    def state(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Rows so far, their mean (D,), and their scatter (D, D), the sum of outer products around it."""
        self._take_up()
        return self._count, self._mean, self._scatter

    def moments(self) -> Moments:
        """Raises ValueError with fewer than two rows, which have no covariance."""
        count, mean, scatter = self.state()
        if count < 2:
            raise ValueError(f"{count} rows of features have no covariance; at least 2 are needed")
        return Moments(count, mean.copy(), scatter / (count - 1))

    def _take_up(self) -> None:
        waiting, self._waiting = self._waiting, []
        if sum(map(len, waiting)):
            centered = np.concatenate(waiting)
            mean = centered.mean(axis=0)
            centered -= mean
            self._join(len(centered), mean, centered.T @ centered)

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if count:
            gap, total = mean - self._mean, self._count + count
            self._scatter += scatter
            self._scatter += np.outer(gap * (self._count * count / total), gap)
            self._mean = self._mean + gap * (count / total)
            self._count = total


def moments(features: np.ndarray, rows: np.ndarray | None = None) -> Moments:
    """Moments of features (N, D), or of the given ``rows`` of them; a row may occur several times.

    Features in a memory map are read block by block.
    """
    accumulator = Accumulator(features.shape[1])
    rows = None if rows is None else np.sort(rows)                             # read the file sequentially
    for first in range(0, len(features) if rows is None else len(rows), BLOCK):
        block = slice(first, first + BLOCK)
        accumulator.add(features[block if rows is None else rows[block]])
    return accumulator.moments()


def merge_over_ranks(accumulator: Accumulator, group=None) -> Accumulator:
    """Joins all ranks' rows, bit-identical on every rank: parts are joined in the order of ranks. Collective.

    Without a process group it returns the accumulator. ``group`` must be for CPU tensors and include all ranks
    (``World.control``); None is the default group.
    """
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return accumulator
    count, mean, scatter = accumulator.state()
    merged, mine = Accumulator(len(mean)), np.concatenate([[count], mean, scatter.ravel()])
    for rank in range(dist.get_world_size(group)):                             # one at a time: a scatter takes 32 MiB at 2048
        sent = torch.from_numpy(mine.copy())
        dist.broadcast(sent, src=rank, group=group)
        rows, mean, scatter = np.split(sent.numpy(), [1, 1 + len(mean)])
        merged._join(int(rows[0]), mean, scatter.reshape(len(mean), -1))
    return merged
