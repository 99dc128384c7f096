"""The ranks of a command that computes without training: no DeepSpeed, and words between them go over the CPU."""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process among those that the launcher started."""

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all ranks. Collective."""
        if self.size > 1:
            dist.barrier()

    def agree(self, value):
        """Rank 0's value, on every rank; what the others give is passed over. Collective."""
        if self.size == 1:
            return value
        shared = [value]
        dist.broadcast_object_list(shared, src=0)
        return shared[0]


@contextmanager
def join_ranks():
    """Yields this process's ``Ranks``; one that was started without a launcher is alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks(0, 1)
        return
    dist.init_process_group("gloo", timeout=timedelta(days=7))                 # the last part of a slow rank may take long
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
