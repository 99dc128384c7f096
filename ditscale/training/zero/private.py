"""The only access to DeepSpeed's private names: each with its purpose and its replacement.

Everything else uses DeepSpeed's public functions, torch, or objects that we passed in. If a new DeepSpeed lacks a name,
a public replacement is used: slower but correct, and reported in one line at the start. Without a replacement the start is refused.
"""

import importlib
import importlib.metadata
from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ditscale.errors import UserError

TESTED = "0.19"                                                                # the tested series, for example 0.19.8
PINNED = f"pip install 'deepspeed=={TESTED}.*'"


@dataclass(frozen=True)
class Name:
    """One private name.

    Args:
        name: the attribute.
        stages: the ZeRO stages that need it, on the optimizer (``on`` "optimizer") or on a parameter.
        purpose: what it is for.
        instead: what happens without it; "" if there is no replacement.
    """

    name: str
    stages: tuple[int, ...]
    purpose: str
    instead: str
    on: str = "optimizer"


GRADIENTS = Name("averaged_gradients", (1,), "where one rank puts its gradients, by group", "one rank reduces them, three copies per step")
PREFLATTENED = Name("_get_preflattened_grad_partition", (1,), "takes a group's gradients flat, if they have flat_partition",
                    "gradients are flattened, one copy per step")
RELINK = Name("_link_all_hp_params", (1, 2), "lets parameters forget the former masters",
              "fp32 masters are kept in addition to the weights")
FRAGMENT = Name("_hp_mapping", (1, 2), "this rank's part of one parameter's gradient, offloaded too",
                "each full gradient is gathered by safe_get_full_grad", on="parameter")
FLATS = Name("fp32_partitioned_groups_flat", (3,), "this rank's masters, the keys of the optimizer's state", "")
MEMBERS = Name("fp16_groups", (3,), "the parameters of each flat, in their order", "they are found by safe_get_local_fp32_param")
SHARE = Name("ds_tensor", (3,), "the numbers per parameter on each rank", "they are counted by safe_get_local_fp32_param",
             on="parameter")
PARTITIONS = Name("get_fp32_grad_partitions", (3,), "this rank's reduced gradients", "each is fetched by safe_get_local_grad")
NAMES = ("GRADIENTS", "PREFLATTENED", "RELINK", "FRAGMENT", "FLATS", "MEMBERS", "SHARE", "PARTITIONS")


def version() -> str:
    """The installed DeepSpeed's."""
    return importlib.metadata.version("deepspeed")


def version_note(installed: str) -> str:
    """One line if a version is outside the tested series, else ""."""
    if installed.split(".")[:2] == TESTED.split("."):
        return ""
    return f"DeepSpeed {installed} has not been tested, and losses may differ; {PINNED} installs the tested {TESTED}"


def has(engine, name: Name) -> bool:
    """Whether this DeepSpeed has the name at the engine's stage."""
    thing = engine.optimizer if name.on == "optimizer" else next(p for p in engine.module.parameters() if p.requires_grad)
    return hasattr(thing, name.name)


def check(engine) -> str:
    """One line about missing names and their replacements; "" if none is missing.

    Raises:
        UserError: a missing name has no replacement.
    """
    stage, gone = engine.zero_optimization_stage(), []
    for name in (globals()[word] for word in NAMES):
        if stage not in name.stages or has(engine, name):
            continue
        where = type(engine.optimizer).__name__ if name.on == "optimizer" else "a parameter"
        if not name.instead:
            raise UserError(f"DeepSpeed {version()} has no {name.name} on {where}, {name.purpose}, which ZeRO stage {stage} "
                            f"needs; {PINNED} has it, or use stage 1 or 2")
        gone.append(f"no {name.name} on {where}: {name.instead}")
    return f"DeepSpeed {version()} has {'; '.join(gone)}. This is slower; {PINNED} has all" if gone else ""


# Stages 1 and 2

def averaged(engine) -> dict[int, list[Tensor]]:
    """The gradients that ``engine.step()`` reads, by group, on one rank; to be set."""
    return getattr(engine.optimizer, GRADIENTS.name)


def takes_flat_gradients(engine) -> bool:
    """Whether ``averaged`` may hold lists with a ``flat_partition``, which the step then uses directly."""
    return has(engine, GRADIENTS) and has(engine, PREFLATTENED)


def forget_former_masters(engine) -> None:
    """After masters were moved: makes parameters refer to the new location and frees the old memory."""
    getattr(engine.optimizer, RELINK.name)()


def hands_out_fragments(engine) -> bool:
    """Whether ``fragment_of_gradient`` works on every rank, as the replacement needs all ranks. Collective."""
    mine = [p for p in engine.module.parameters() if p.requires_grad and getattr(p, FRAGMENT.name, None) is not None]
    can = has(engine, FRAGMENT) and all(
        hasattr(getattr(p, FRAGMENT.name), "get_lp_grad_fragment") and hasattr(p, "_index_in_param_group") for p in mine)
    all_can = torch.tensor(int(can), device=engine.device)
    dist.all_reduce(all_can, op=dist.ReduceOp.MIN)
    return bool(all_can.item())


def fragment_of_gradient(p) -> Tensor:
    """This rank's part of a parameter's reduced gradient, for a parameter of which it has a part."""
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
    """The numbers per parameter on each rank, including padding."""
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
    """``members`` found by the memory location of a parameter's masters.

    Raises:
        UserError: they are in no flat, for example because offloaded masters are returned as copies.
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
                            f"{PINNED} has it, or use a strategy without offload")
    return [[p for _, p in sorted(group, key=lambda pair: pair[0])] for group in found]


# Before the engine is created

def build_no_ops() -> str:
    """Tells DeepSpeed that none of its ops can be compiled here, as a run needs none. Call before the process group is created.

    On a CPU DeepSpeed compiles an all-reduce over shared memory at the first start, for minutes, with whatever ninja and compiler
    come first in PATH. It is only for inference: training sums gradients with torch's collectives.
    This also skips DeepSpeed's search for compilers when it first checks what it could compile.

    Returns one line if this DeepSpeed decides elsewhere and may compile, else "".
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = defaultdict(bool)
    if hasattr(importlib.import_module("deepspeed.comm.torch"), "build_shm_op"):
        return ""
    return f"DeepSpeed {version()} decides elsewhere what it compiles: the first start may take minutes longer; {PINNED} does not"
