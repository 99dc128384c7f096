"""DeepSpeed: the engine, and the fp32 masters of this rank by name.

ZeRO keeps, on each rank, flat fp32 *partitions*: its share of all parameters. Optimizer moments and EMA are tensors of the
same shape. ``gather`` turns such tensors into whole named ones, ``scatter`` turns whole ones back; both are collective and
know nothing of the stage, so checkpoints do not depend on world size or stage.
"""

import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ditscale.config import RunConfig
from ditscale.training.strategy import deepspeed_config


def make_engine(model: nn.Module, config: RunConfig, world_size: int):
    """A DeepSpeed engine with torch's own fused AdamW (no JIT-compiled optimizer is needed on any device)."""
    import deepspeed

    train = config.train
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay,
                                  fused=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                        # deprecations inside DeepSpeed, not ours to mend
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_config(config, world_size))
    return engine


def partitions(engine) -> list[Tensor]:
    """This rank's flat fp32 masters, one tensor a parameter group (ZeRO stages 1 and 2)."""
    return engine.optimizer.single_partition_of_fp32_groups


def gather(engine, flats: list[Tensor]) -> dict[str, Tensor]:
    """Whole fp32 tensors by parameter name, on the CPU, from partition-shaped ones. Collective."""
    from deepspeed.utils import safe_get_full_fp32_param

    masters = partitions(engine)
    kept = [master.clone() for master in masters]
    _copy(flats, masters)                                                      # DeepSpeed gathers only its masters, so lend them
    try:
        return {name: safe_get_full_fp32_param(p).detach().cpu() for name, p in engine.module.named_parameters()
                if p.requires_grad}
    finally:
        _copy(kept, masters)


def scatter(engine, whole: dict[str, Tensor], flats: list[Tensor]) -> None:
    """Fill partition-shaped tensors with this rank's share of whole named ones. Collective; the inverse of ``gather``."""
    from deepspeed.utils import safe_set_full_fp32_param

    masters = partitions(engine)
    kept = [master.clone() for master in masters]
    for name, p in engine.module.named_parameters():
        if p.requires_grad:
            safe_set_full_fp32_param(p, whole[name].to(p.device))
    _copy(masters, flats)
    _copy(kept, masters)


def set_masters(engine, whole: dict[str, Tensor]) -> None:
    """Set the fp32 masters from whole named tensors, and the bf16 weights that the forward uses from them."""
    from deepspeed.utils import safe_set_full_fp32_param

    for name, p in engine.module.named_parameters():
        if p.requires_grad:
            safe_set_full_fp32_param(p, whole[name].to(p.device))
    engine.optimizer.update_lp_params()


def lend_weights(engine, model: nn.Module) -> list[Tensor]:
    """Give a second model copies of the weights that the engine's forward uses.

    Returns flat tensors in ZeRO's layout, in training precision; the model's trainable parameters are views into them, so that
    ``share_weights`` changes the model.
    """
    twins, names = dict(model.named_parameters()), {p: name for name, p in engine.module.named_parameters()}
    weights = []
    for theirs, group in zip(engine.optimizer.bit16_groups_flat, engine.optimizer.bit16_groups, strict=True):
        flat = theirs.detach().clone()
        for p in group:
            offset = p.storage_offset() - theirs.storage_offset()
            twins.pop(names[p]).data = flat.narrow(0, offset, p.numel()).view(p.shape)
        weights.append(flat)
    constant = {**{name: p for p, name in names.items()}, **dict(engine.module.named_buffers())}
    for name, twin in (*twins.items(), *model.named_buffers()):                # what no step changes is shared
        twin.data = constant[name].data
    return weights


@torch.no_grad()
def share_weights(engine, flats: list[Tensor], weights: list[Tensor]) -> None:
    """Round this rank's fp32 partitions into flat weights of ``lend_weights``, and fetch the other ranks' parts. Collective.

    The same calls as ZeRO's own, which it makes for the student at the end of each step.
    """
    from deepspeed.runtime.utils import all_gather_dp_groups

    optimizer = engine.optimizer
    shards = [optimizer.get_data_parallel_partitions(whole, group) for group, whole in enumerate(weights)]
    for mine, shard in zip(flats, shards, strict=True):
        shard[dist.get_rank()].copy_(mine)
    all_gather_dp_groups(groups_flat=weights, partitioned_param_groups=shards, dp_process_group=optimizer.real_dp_process_group,
                         start_alignment_factor=optimizer.nccl_start_alignment_factor,
                         allgather_bucket_size=optimizer.allgather_bucket_size)


def optimizer_state(engine) -> list[dict]:
    """AdamW's state of each partition, made where no step has been taken yet."""
    adam = engine.optimizer.optimizer
    for master in partitions(engine):
        if not adam.state[master]:
            adam.state[master] = {"step": torch.zeros((), device=master.device),
                                  "exp_avg": torch.zeros_like(master), "exp_avg_sq": torch.zeros_like(master)}
    return [adam.state[master] for master in partitions(engine)]


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.data.copy_(source.data)
