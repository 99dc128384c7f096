import numpy as np
import pytest

from ditscale.data.order import epoch_order, indices_at, rank_positions
from ditscale.errors import UserError


def test_every_epoch_is_a_permutation_of_its_own():
    orders = [epoch_order(97, 3, epoch) for epoch in range(5)] + [epoch_order(97, 4, 0)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(97))
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)


def test_order_is_pinned():
    """A change here changes every run that was ever made."""
    assert epoch_order(10, 0, 0).tolist() == [0, 8, 6, 2, 4, 1, 9, 7, 3, 5]
    assert epoch_order(10, 2**63 + 5, 7).tolist() == [9, 6, 5, 8, 1, 3, 2, 7, 0, 4]


def test_order_does_not_depend_on_calls_before():
    first = epoch_order(50, 1, 2).copy()
    for epoch in range(9):
        epoch_order(50, 1, epoch)
    assert (epoch_order(50, 1, 2) == first).all()
    with pytest.raises(ValueError):
        epoch_order(50, 1, 2)[0] = 0


def test_indices_run_through_the_epochs():
    stream = indices_at(np.arange(60), 20, seed=5)
    assert (stream == np.concatenate([epoch_order(20, 5, epoch) for epoch in range(3)])).all()
    assert (indices_at([[59, 0], [20, 19]], 20, seed=5) == stream[[[59, 0], [20, 19]]]).all()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_together_hold_the_global_batch_in_order(world_size):
    parts = [rank_positions(13, 6, 8, rank, world_size) for rank in range(world_size)]
    assert all(part.shape == (6, 8 // world_size) and part.dtype == np.int64 for part in parts)
    whole = np.concatenate(parts, axis=1)
    assert (whole == np.arange(13, 13 + 48).reshape(6, 8)).all()
    indices = np.concatenate([indices_at(part, 10, seed=0) for part in parts], axis=1)     # epochs of 10 samples
    assert (indices.reshape(-1) == indices_at(np.arange(13, 61), 10, seed=0)).all()


def test_world_size_must_divide():
    with pytest.raises(UserError, match="global_batch 10 does not divide among 4 ranks; 8 does"):
        rank_positions(0, 1, 10, 0, 4)
