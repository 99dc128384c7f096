"""The only access to DeepSpeed's private names: each with its purpose and its replacement.

Everything else asks DeepSpeed's public functions, torch, or what we handed over ourselves. Where a name is gone in a new DeepSpeed
the public way takes over: slower, never wrong, said once in one line at the start. Where there is none the start is refused.
"""

import importlib
import importlib.metadata
from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ditscale.errors import UserError

TESTED = "0.19"                                                                # the series that the tests ran on, as 0.19.8
PINNED = f"pip install 'deepspeed=={TESTED}.*'"


@dataclass(frozen=True)
class Name:
    """One private name.

    Args:
        name: the attribute.
        stages: the ZeRO stages that ask for it, on the optimizer (``on`` "optimizer") or on a parameter.
        purpose: what it is for.
        instead: what happens without it; an empty text where nothing can take its place.
    """

    name: str
    stages: tuple[int, ...]
    purpose: str
    instead: str
    on: str = "optimizer"


GRADIENTS = Name("averaged_gradients", (1,), "where one rank puts its gradients, by group", "one rank reduces them, three copies a step")
PREFLATTENED = Name("_get_preflattened_grad_partition", (1,), "takes a group's gradients flat, if they have flat_partition",
                    "gradients are flattened, a copy a step")
RELINK = Name("_link_all_hp_params", (1, 2), "lets parameters forget the former masters",
              "fp32 masters are kept beside the weights")
FRAGMENT = Name("_hp_mapping", (1, 2), "this rank's part of one parameter's gradient, offloaded too",
                "each is gathered whole by safe_get_full_grad", on="parameter")
FLATS = Name("fp32_partitioned_groups_flat", (3,), "this rank's masters, by which the optimizer's state is known", "")
MEMBERS = Name("fp16_groups", (3,), "the parameters of each flat, in their order", "they are found by safe_get_local_fp32_param")
SHARE = Name("ds_tensor", (3,), "how many numbers of a parameter each rank has", "they are counted by safe_get_local_fp32_param",
             on="parameter")
PARTITIONS = Name("get_fp32_grad_partitions", (3,), "this rank's reduced gradients", "each is fetched by safe_get_local_grad")
NAMES = ("GRADIENTS", "PREFLATTENED", "RELINK", "FRAGMENT", "FLATS", "MEMBERS", "SHARE", "PARTITIONS")


def version() -> str:
    """The installed DeepSpeed's."""
    return importlib.metadata.version("deepspeed")


def version_note(installed: str) -> str:
    """One line where a version is outside the tested series, else an empty text."""
    if installed.split(".")[:2] == TESTED.split("."):
        return ""
    return f"DeepSpeed {installed} has not been tested here, {TESTED} has: losses may differ. {PINNED} installs that"


def has(engine, name: Name) -> bool:
    """Whether this DeepSpeed has the name at the engine's stage."""
    thing = engine.optimizer if name.on == "optimizer" else next(p for p in engine.module.parameters() if p.requires_grad)
    return hasattr(thing, name.name)


def check(engine) -> str:
    """One line about the names that are gone, and what is done instead; empty where all are there.

    Raises:
        UserError: a name is gone that has no public way.
    """
    stage, gone = engine.zero_optimization_stage(), []
    for name in (globals()[word] for word in NAMES):
        if stage not in name.stages or has(engine, name):
            continue
        where = type(engine.optimizer).__name__ if name.on == "optimizer" else "a parameter"
        if not name.instead:
            raise UserError(f"DeepSpeed {version()} has no {name.name} on {where}, {name.purpose}, and ZeRO stage {stage} cannot "
                            f"do without; {PINNED} has it, or take stage 1 or 2")
        gone.append(f"no {name.name} on {where}: {name.instead}")
    return f"DeepSpeed {version()} has {'; '.join(gone)}. This is slower; {PINNED} has all" if gone else ""


# Stages 1 and 2

def averaged(engine) -> dict[int, list[Tensor]]:
    """The gradients that ``engine.step()`` takes, by group, on one rank; to be set."""
    return getattr(engine.optimizer, GRADIENTS.name)


def takes_flat_gradients(engine) -> bool:
    """Whether ``averaged`` may hold lists with a ``flat_partition``, which the step then takes as it is."""
    return has(engine, GRADIENTS) and has(engine, PREFLATTENED)


def forget_former_masters(engine) -> None:
    """After masters were moved: parameters refer to where they are now, and the old memory is freed."""
    getattr(engine.optimizer, RELINK.name)()


def hands_out_fragments(engine) -> bool:
    """Whether ``fragment_of_gradient`` can be asked on every rank: the other way needs them all. Collective."""
    mine = [p for p in engine.module.parameters() if p.requires_grad and getattr(p, FRAGMENT.name, None) is not None]
    can = has(engine, FRAGMENT) and all(
        hasattr(getattr(p, FRAGMENT.name), "get_lp_grad_fragment") and hasattr(p, "_index_in_param_group") for p in mine)
    all_can = torch.tensor(int(can), device=engine.device)
    dist.all_reduce(all_can, op=dist.ReduceOp.MIN)
    return bool(all_can.item())


def fragment_of_gradient(p) -> Tensor:
    """This rank's part of a parameter's reduced gradient, for a parameter that it has a part of."""
    return getattr(p, FRAGMENT.name).get_lp_grad_fragment(p._index_in_param_group)


# Stage 3

def flats(engine) -> list[Tensor]:
    """This rank's masters."""
    return getattr(engine.optimizer, FLATS.name)


def members(engine) -> list[list[Tensor]]:
    """The parameters of each flat, in their order."""
    if has(engine, MEMBERS):
        return getattr(engine.optimizer, MEMBERS.name)
    return _located(engine)


def share(p) -> int:
    """How many numbers of a parameter each rank has, padding included."""
    from deepspeed.utils import safe_get_local_fp32_param

    numel = getattr(getattr(p, SHARE.name, None), "ds_numel", None)
    return safe_get_local_fp32_param(p).numel() if numel is None else numel


def partitions(engine) -> dict[Tensor, Tensor]:
    """This rank's part of each parameter's reduced gradient, padding included."""
    if has(engine, PARTITIONS):
        parts = getattr(engine.optimizer, PARTITIONS.name)()
        return {p: parts[group][index] for group, parameters in enumerate(members(engine)) for index, p in enumerate(parameters)}
    from deepspeed.utils import safe_get_local_grad

    return {p: safe_get_local_grad(p) for parameters in members(engine) for p in parameters}


def _located(engine) -> list[list[Tensor]]:
    """``members`` by where a parameter's masters lie in memory.

    Raises:
        UserError: they lie in no flat, as where offloaded masters are handed out as copies.
    """
    from deepspeed.utils import safe_get_local_fp32_param

    found: list[list[tuple[int, Tensor]]] = [[] for _ in flats(engine)]
    for p in (p for p in engine.module.parameters() if p.requires_grad):
        at = safe_get_local_fp32_param(p).data_ptr()
        for group, flat in enumerate(flats(engine)):
            if flat.data_ptr() <= at < flat.data_ptr() + flat.numel() * flat.element_size():
                found[group].append((at, p))
                break
        else:
            raise UserError(f"DeepSpeed {version()} has no {MEMBERS.name}, and offloaded masters cannot be found without it; "
                            f"{PINNED} has it, or take a strategy without offload")
    return [[p for _, p in sorted(group, key=lambda pair: pair[0])] for group in found]


# Before there is an engine

def build_no_ops() -> str:
    """Tell DeepSpeed that none of its ops can be compiled here: a run needs none. Call before the process group is made.

    On a CPU DeepSpeed compiles an all-reduce over shared memory at the first start, minutes of it, with whatever ninja and compiler
    come first in PATH. It is for inference alone: training sums gradients by torch's own collectives, on one rank and on many.
    It spares the look for compilers too, which DeepSpeed takes when it is first asked what it could compile.

    Returns one line where this DeepSpeed asks elsewhere, and may compile, else an empty text.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = defaultdict(bool)
    if hasattr(importlib.import_module("deepspeed.comm.torch"), "build_shm_op"):
        return ""
    return f"DeepSpeed {version()} decides elsewhere what it compiles: the first start may take minutes longer; {PINNED} does not"
