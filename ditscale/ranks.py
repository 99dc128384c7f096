"""The ranks of a command: rank, world size, device, and messages between ranks over the CPU."""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ditscale.device import local_device


@dataclass(frozen=True)
class World:
    """This process among those that the launcher started.

    Args:
        control: a group for words between hosts, beside the accelerators' queues; None where the usual group goes over the CPU.
    """

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all ranks. Collective."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank; every rank gets the same answer. The accelerators are not waited for. Collective."""
        return bool(self._reduce(int(flag), dist.ReduceOp.MAX))

    def sum(self, count: int) -> int:
        """The sum of a whole number over the ranks; every rank gets the same answer. Collective."""
        return self._reduce(count, dist.ReduceOp.SUM)

    def least(self, count: int) -> int:
        """The smallest of a whole number over the ranks; every rank gets the same answer. Collective."""
        return self._reduce(count, dist.ReduceOp.MIN)

    def _reduce(self, count: int, by) -> int:
        if self.size == 1:
            return count
        shared = torch.tensor(count, dtype=torch.long)
        dist.all_reduce(shared, op=by, group=self.control)
        return int(shared.item())

    def agree(self, value):
        """Rank 0's value, on every rank; what the others give is passed over. Collective."""
        if self.size == 1:
            return value
        shared = [value]
        dist.broadcast_object_list(shared, src=0, group=self.control)
        return shared[0]

    def gather(self, value) -> list:
        """Every rank's value, in the order of ranks, on every rank. Collective."""
        if self.size == 1:
            return [value]
        found = [None] * self.size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def share(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rank 0's tensors by name, on every rank, on the CPU; what the others give is passed over. Collective."""
        if self.size == 1:
            return tensors
        stated = self.agree([(name, value.shape, value.dtype) for name, value in tensors.items()] if self.is_main else None)
        shared = {name: tensors[name].detach().cpu().contiguous() if self.is_main else torch.empty(shape, dtype=dtype) for name, shape, dtype in stated}
        for value in shared.values():
            dist.broadcast(value, src=0, group=self.control)
        return shared

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the ranks, on their devices; every rank gets the same answer. Collective."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size


@contextmanager
def join_ranks():
    """For a command that does not train, so without DeepSpeed: yields the ``World``; a process without a launcher is alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, local_device())
        return
    dist.init_process_group("gloo", timeout=timedelta(days=7))                 # the last part of a slow rank may take long
    try:
        yield World(dist.get_rank(), size, local_device())
    finally:
        dist.destroy_process_group()
