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
    """This process among those started by the launcher.

    Args:
        control: a group for messages between hosts outside the accelerators' queues; None if the default group uses the CPU.
    """

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Waits for all ranks. Collective."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank, on every rank. Does not wait for the accelerators. Collective."""
        return bool(self._reduce(int(flag), dist.ReduceOp.MAX))

    def sum(self, count: int) -> int:
        """The sum of an integer over the ranks, on every rank. Collective."""
        return self._reduce(count, dist.ReduceOp.SUM)

    def least(self, count: int) -> int:
        """The minimum of an integer over the ranks, on every rank. Collective."""
        return self._reduce(count, dist.ReduceOp.MIN)

    def _reduce(self, count: int, by) -> int:
        if self.size == 1:
            return count
        shared = torch.tensor(count, dtype=torch.long)
        dist.all_reduce(shared, op=by, group=self.control)
        return int(shared.item())

    def agree(self, value):
        """Rank 0's value, on every rank; the other ranks' values are ignored. Collective."""
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
        """Rank 0's tensors by name, on every rank, on the CPU; the other ranks' tensors are ignored. Collective."""
        if self.size == 1:
            return tensors
        stated = self.agree([(name, value.shape, value.dtype) for name, value in tensors.items()] if self.is_main else None)
        shared = {name: tensors[name].detach().cpu().contiguous() if self.is_main else torch.empty(shape, dtype=dtype) for name, shape, dtype in stated}
        for value in shared.values():
            dist.broadcast(value, src=0, group=self.control)
        return shared

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the ranks, on every rank, on its device. Collective."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size


@contextmanager
def join_ranks():
    """Yields the ``World`` of a command that does not train (without DeepSpeed); a process without a launcher is the only rank."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, local_device())
        return
    dist.init_process_group("gloo", timeout=timedelta(days=7))                 # a slow rank's last part may take long
    try:
        yield World(dist.get_rank(), size, local_device())
    finally:
        dist.destroy_process_group()
