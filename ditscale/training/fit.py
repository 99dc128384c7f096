"""``resources.micro_batch: auto``: the largest micro batch that fits according to the memory model. Also used by the planner, without torch."""

from typing import TYPE_CHECKING

from ditscale.config import RunConfig
from ditscale.cost.memory import GIB
from ditscale.cost.runs import run_memory_card
from ditscale.errors import UserError, count
from ditscale.training.zero.strategy import offloads, zero_stage

if TYPE_CHECKING:
    from ditscale.ranks import World

USABLE = 0.85                                                                  # the rest is for buckets, kernels and fragmentation


def fit_micro_batch(config: RunConfig, world: "World") -> RunConfig:
    """The config with ``auto`` resolved: the same number on all ranks, for the one with the least memory. Collective.

    Raises:
        UserError: not even one image fits.
    """
    if config.resources.micro_batch != "auto":
        return config

    usable = USABLE * world.least(_memory_bytes(world)) / config.resources.runs_per_accelerator
    return with_micro_batch(config, largest_that_fits(config, int(usable)))


def with_micro_batch(config: RunConfig, micro_batch: int) -> RunConfig:
    return config.model_copy(update={"resources": config.resources.model_copy(update={"micro_batch": micro_batch})})


def largest_that_fits(config: RunConfig, usable_bytes: int) -> int:
    """The largest divisor of a rank's images that needs at most ``usable_bytes``.

    Raises:
        UserError: not even one image, or one group, fits; the message has the memory needed and what would help.
    """
    stage, offload, sizes = zero_stage(config), offloads(config), micro_batches(config)
    needed = 0
    for micro_batch in sizes:
        needed = run_memory_card(config, stage=stage, offload=offload, micro_batch=micro_batch).accelerator
        if needed <= usable_bytes:
            return micro_batch
    least = "one image at a time needs" if sizes[-1] == 1 else f"{sizes[-1]} images at a time need"
    raise UserError(f"resources.micro_batch auto: {least} {needed / GIB:.2f} GiB on each of "
                    f"{count(config.resources.accelerators_per_run, 'rank')} at ZeRO stage {stage}, and {usable_bytes / GIB:.2f} GiB are "
                    "usable; a higher stage, more ranks or resources.checkpoint_activations need less")


def micro_batches(config: RunConfig) -> list[int]:
    """The choices of ``auto``: the divisors of a rank's images, in whole groups if the loss compares images, largest first."""
    images, group = config.train.global_batch // config.resources.accelerators_per_run, config.objective.images_per_group
    return [number for number in range(images, 0, -1) if images % number == 0 and number % group == 0]


def _memory_bytes(world: "World") -> int:
    """Memory of this rank's device; on the CPU its share of free memory, assuming all ranks are on this host."""
    from ditscale.device import is_accelerator, total_memory

    if is_accelerator(world.device):
        return total_memory(world.device)
    with open("/proc/meminfo") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    return kib * 1024 // world.size
