"""The order in which batches are copied ahead, with copies that only take notes; and that a CPU copies nothing."""

import pytest
import torch

from ditscale.data.prefetch import ahead, on_device


class Notes:
    """Copies that write down when they start and finish."""

    def __init__(self):
        self.log = []

    def start(self, batch):
        self.log.append(f"start {batch}")
        return batch

    def finish(self, started):
        self.log.append(f"finish {started}")
        return started


def test_the_next_copy_starts_before_a_batch_is_handed_out():
    notes = Notes()
    for batch in ahead(range(3), notes):
        notes.log.append(f"use {batch}")
    assert notes.log == ["start 0", "start 1", "finish 0", "use 0", "start 2", "finish 1", "use 1", "finish 2", "use 2"]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_batch_comes_once(count):
    assert list(ahead(range(count), Notes())) == list(range(count))


def test_an_error_of_the_reader_comes_through():
    def broken():
        yield 0
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        list(ahead(broken(), Notes()))


def test_a_cpu_copies_nothing():
    batches = [object(), object()]
    assert all(got is batch for got, batch in zip(on_device(batches, torch.device("cpu")), batches, strict=True))
