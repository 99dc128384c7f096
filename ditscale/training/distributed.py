"""Joins the process group in which DeepSpeed trains."""

import os
from typing import cast

import torch.distributed as dist

from ditscale import device
from ditscale.ranks import World
from ditscale.training import heap
from ditscale.training.ports import free_port
from ditscale.training.zero import private


def join_world() -> World:
    """Joins the process group described by the launcher; a process started without a launcher is a world of one.

    Raises:
        UserError: DeepSpeed uses an unsupported kind of accelerator here.
    """
    from deepspeed.accelerator import get_accelerator

    kind = device.checked_kind(get_accelerator().device_name(), "DeepSpeed")
    on_cpu = kind == "cpu"
    if on_cpu:
        heap.keep_freed()
    import deepspeed

    for note in filter(None, (private.build_no_ops(), private.version_note(private.version()))):
        if os.environ.get("RANK", "0") == "0":
            print(f"warning: {note}", flush=True)
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    if "RANK" not in os.environ:
        os.environ.update(alone)
    mine = device.local_device(kind)
    device.use(mine)
    if not dist.is_initialized():
        deepspeed.init_distributed(dist_backend="gloo" if on_cpu else get_accelerator().communication_backend_name(), verbose=False)
    control = None if on_cpu else cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
    return World(dist.get_rank(), dist.get_world_size(), mine, control)
