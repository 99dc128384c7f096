"""Several runs on one accelerator at a time (``resources.runs_per_accelerator``): how many, and whether they fit by the memory model.

A small run leaves a GPU mostly idle between its kernels. Each run is given an equal share of the memory, of which as much is for
tensors as for a run alone.
"""

from ditscale.config import RunConfig
from ditscale.cost.hardware import Machine
from ditscale.cost.memory import GIB
from ditscale.cost.runs import run_memory_card
from ditscale.errors import UserError, count
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.fit import USABLE, micro_batches
from ditscale.training.zero.strategy import offloads, zero_stage


def runs_per_accelerator(machine: Machine, runs: list[PlannedRun]) -> int:
    """How many of these runs share an accelerator: the fewest that one of them allows.

    Raises:
        UserError: this machine has no GPU, or so many do not fit into one; the message says how many would.
    """
    allowed = min(planned.config.resources.runs_per_accelerator for planned in runs)
    for planned in runs if allowed > 1 else ():
        if machine.kind != "gpu":
            raise UserError(f"resources.runs_per_accelerator is {allowed}, but there is no GPU here, and a core takes one run at a time: "
                            "resources.runs_per_accelerator=1 works here")
        _check_fits(planned, allowed, machine)
    return allowed


def slots(machine: Machine, runs: list[PlannedRun]) -> int:
    """How many runs go at once.

    Raises:
        UserError: one needs more GPUs than there are, or so many do not fit into one.
    """
    ranks = max(planned.config.resources.accelerators_per_run for planned in runs)
    if machine.kind == "gpu" and ranks > machine.devices:
        raise UserError(f"resources.accelerators_per_run is {ranks} but this machine has {count(machine.devices, 'GPU')}")
    return max(1, machine.devices // ranks) * runs_per_accelerator(machine, runs)


def check_alone(runs: list[PlannedRun], launcher: str) -> None:
    """Raise UserError where a run is to share its accelerators and a launcher gives them to it alone."""
    for planned in runs:
        if (shared := planned.config.resources.runs_per_accelerator) > 1:
            raise UserError(f"resources.runs_per_accelerator is {shared}, but launcher {launcher} gives a run its accelerators alone: "
                            "resources.runs_per_accelerator=1 works there")


def _check_fits(planned: PlannedRun, shared: int, machine: Machine) -> None:
    needed, usable = _needed(planned.config), int(USABLE * machine.memory_bytes)
    if machine.memory_bytes and needed * shared > usable:
        would = f"{usable // needed} would fit" if needed <= usable else "not even one does"
        raise UserError(f"resources.runs_per_accelerator is {shared}, but {planned.run_id} needs {needed / GIB:.3g} GiB by the memory model, and "
                        f"of the {machine.memory_bytes / GIB:.3g} GiB of {machine.name} {usable / GIB:.3g} are usable: {would}")


def _needed(config: RunConfig) -> int:
    """Bytes of one rank; with ``micro_batch: auto`` those of the smallest micro batch, as it then takes what is there."""
    micro_batch = micro_batches(config)[-1] if config.resources.micro_batch == "auto" else config.micro_batch
    return run_memory_card(config, stage=zero_stage(config), offload=offloads(config), micro_batch=micro_batch).accelerator
