"""The order of training samples: a pure function of the seed, the same for any number of ranks.

A *position* 0, 1, 2, ... counts images seen in the global stream. Epoch ``e`` covers positions ``e * n`` to
``e * n + n - 1`` and visits each of the ``n`` samples once. Batches may span two epochs: nothing is dropped.
"""

import functools
import hashlib

import numpy as np

from ditscale.errors import UserError

ORDER_STREAM = int.from_bytes(hashlib.sha256(b"data order").digest()[:8], "little")    # named as in ditscale.randomness


@functools.lru_cache(maxsize=2)                                                # a batch may span two epochs
def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """Dataset indices in the order in which ``epoch`` visits them: int64 (num_samples,), read-only as it is shared.

    The sort of raw Philox words, key = (seed, stream), counter = (block, epoch, 0, 0). NumPy guarantees that a bit
    generator's words never change; ``Generator.permutation`` has no such guarantee.
    """
    key, counter = (np.array(words, dtype=np.uint64) for words in ([seed % 2**64, ORDER_STREAM], [0, epoch, 0, 0]))
    words = np.random.Philox(key=key, counter=counter).random_raw(num_samples)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


def indices_at(positions, num_samples: int, seed: int) -> np.ndarray:
    """Dataset indices of the samples at these positions of the stream: int64, in the shape of ``positions``."""
    positions = np.asarray(positions, dtype=np.int64)
    epochs, places = np.divmod(positions, num_samples)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        indices[here] = epoch_order(num_samples, seed, epoch)[places[here]]
    return indices


def rank_positions(first_position: int, num_steps: int, global_batch: int, rank: int, world_size: int) -> np.ndarray:
    """Positions that one rank takes in ``num_steps`` steps: int64 (num_steps, global_batch // world_size).

    Each global batch is the next ``global_batch`` positions, and rank r takes its contiguous slice r. So the ranks
    together hold the same samples for any world size.

    Raises:
        UserError: the world size does not divide the global batch.
    """
    if global_batch % world_size:
        raise UserError(f"global_batch {global_batch} does not divide among {world_size} ranks; "
                        f"{global_batch - global_batch % world_size or world_size} does")
    share = global_batch // world_size
    steps = first_position + global_batch * np.arange(num_steps, dtype=np.int64)
    return steps[:, None] + np.arange(rank * share, (rank + 1) * share)
