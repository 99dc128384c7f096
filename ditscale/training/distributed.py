"""Ranks: who am I, how many are we, start and end together."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ditscale.training import heap
from ditscale.training.ports import free_port
from ditscale.training.zero import private


@dataclass(frozen=True)
class World:
    """This process among all: its rank, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None                                   # for words between hosts, beside the GPUs' queues

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def join_world() -> World:
    """Join the process group that the launcher describes; a process started without a launcher is a world of one."""
    if not torch.cuda.is_available():
        heap.keep_freed()
    import deepspeed

    for note in filter(None, (private.build_no_ops(), private.version_note(private.version()))):
        if os.environ.get("RANK", "0") == "0":
            print(f"warning: {note}", flush=True)
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    if "RANK" not in os.environ:
        os.environ.update(alone)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    control = dist.new_group(backend="gloo") if torch.cuda.is_available() else None
    return World(dist.get_rank(), dist.get_world_size(), device, control)


def any_rank(world: World, flag: bool) -> bool:
    """Whether the flag is up on any rank; every rank gets the same answer. The accelerators are not waited for."""
    if world.size == 1:
        return flag
    shared = torch.tensor(int(flag))
    dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=world.control)
    return bool(shared.item())


def agree(world: World, value):
    """Rank 0's value, on every rank; what the others give is passed over. Collective."""
    if world.size == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0, group=world.control)
    return shared[0]


def sum_over_ranks(world: World, count: int) -> int:
    """The sum of a whole number over the ranks; every rank gets the same answer. Collective."""
    if world.size == 1:
        return count
    total = torch.tensor(count)
    dist.all_reduce(total, group=world.control)
    return int(total.item())


def mean_over_ranks(world: World, value: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over the ranks; every rank gets the same answer. Collective."""
    if world.size == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world.size
