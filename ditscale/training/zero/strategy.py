"""The DeepSpeed JSON of a run: a strategy file completed by the run config. No torch needed."""

import json

from ditscale.config import RunConfig
from ditscale.cost.communication import Sharding
from ditscale.errors import UserError
from ditscale.training.zero.strategyfile import AUTO, Strategy, read_strategy

DTYPES = {word: name for name, words in {"fp32": ("fp32", "float32", "float", "torch.float32"),
                                         "bf16": ("bf16", "bfloat16", "torch.bfloat16")}.items() for word in words}
WARMUPS = {"constant": "WarmupLR", "cosine": "WarmupCosineLR"}                 # DeepSpeed's names for train.lr_schedule
ALONE_BUCKET = 2_000_000                                                       # numbers, which fit into a cache; DeepSpeed's 500 million are 1 to 2 GB


def deepspeed_config(config: RunConfig, world_size: int) -> dict:
    """The strategy file completed with values from the run config.

    Raises:
        UserError: the file is missing, not JSON, has a key that is unknown or of another type, contradicts the run config (the
            message has the key and both values), or asks for something not tested to give the results of a plain loop.
    """
    strategy, train = read_strategy(config.resources.deepspeed), config.train
    ours = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": train.global_batch // (world_size * config.micro_batch),
        "gradient_clipping": train.grad_clip,
        "bf16": {"enabled": train.precision == "bf16", "check_grad_overflow": False},
    }
    train.optimizer.check_stage(strategy.stage, strategy.where, offloads=offloads(config))
    _compare(strategy, config, ours)
    _check_precision(strategy, config)
    if _sums(config) != train.precision:
        ours["data_types"] = {"grad_accum_dtype": _sums(config)}
    return {"steps_per_print": 10**9, **strategy.allowed, **ours, **_left_to_us(strategy.zero, world_size)}


def _left_to_us(zero: dict, world_size: int) -> dict:
    """Settings that turn off parts of DeepSpeed: guard.py clips and skips bad steps without waiting for the device.

    A single rank sends no gradients, so it needs no large send buffer.
    """
    zero = dict(zero)
    left = {"gradient_clipping": 0.0, "zero_optimization": zero, "zero_allow_untested_optimizer": True}
    if zero.get("offload_optimizer", {}).get("device", "none") != "none":
        left["zero_force_ds_cpu_optimizer"] = False                            # torch's fused AdamW also runs on the CPU
    elif zero.get("stage", 0) in (1, 2):
        if world_size == 1:
            zero.setdefault("reduce_bucket_size", ALONE_BUCKET)
            zero.setdefault("reduce_scatter", False)                           # it would divide by the number of ranks in an extra pass
        if world_size == 1 and zero["stage"] == 1:                             # see zero.backward: its buffers would never be flushed
            zero["overlap_comm"] = zero["contiguous_gradients"] = False
        zero["compute_grad_norm"] = False                                      # unused, and in fp32 it waits for the device
    return left


def zero_stage(config: RunConfig) -> int:
    """The ZeRO stage of the strategy file."""
    return read_strategy(config.resources.deepspeed).stage


def sharding(path: str) -> Sharding:
    """The communication settings of the strategy file ``resources.deepspeed``, with DeepSpeed's defaults."""
    strategy, defaults = read_strategy(path), Sharding()
    zero, stage = strategy.zero, strategy.stage

    def stage3(name: str, default: float) -> float:
        return zero.get(f"stage3_{name}", zero.get(name, default))

    return Sharding(stage, zero.get("overlap_comm", stage == 3), zero.get("reduce_bucket_size", defaults.reduce_bucket),
                    stage3("max_reuse_distance", defaults.reuse_distance),
                    min(stage3("prefetch_bucket_size", defaults.prefetch_bucket), stage3("max_live_parameters", 1e9)),
                    zero.get("use_multi_rank_bucket_allreduce", True) or not zero.get("reduce_scatter", True))


def offloads(config: RunConfig) -> bool:
    """Whether optimizer and masters are in host memory."""
    zero = read_strategy(config.resources.deepspeed).zero
    return zero.get("offload_optimizer", {}).get("device", "none") != "none"


def _sums(config: RunConfig) -> str:
    """The precision in which gradients are summed over micro batches."""
    return "fp32" if config.train.grad_sums == "fp32" else config.train.precision


def _check_precision(strategy: Strategy, config: RunConfig) -> None:
    """Refuses settings that would change the result or hide the masters from EMA and checkpoints."""
    if config.train.precision != "bf16":
        return
    if strategy.stage == 0:
        raise UserError(f"{strategy.where} asks for ZeRO stage 0 with train.precision bf16: DeepSpeed then sums gradients in bf16 "
                        "and keeps its masters where EMA and checkpoints cannot read them; use stage 1, which costs no more, or fp32")
    if strategy.stage == 1 and _sums(config) == "fp32":
        raise UserError(f"{strategy.where} asks for stage 1 with train.grad_sums fp32 and bf16, for which DeepSpeed uses another "
                        "optimizer that is not tested here; use stage 2")


def _compare(strategy: Strategy, config: RunConfig, ours: dict) -> None:
    """Checks that values in the file that repeat the run config are equal to it."""
    repeated = dict(strategy.run)
    _check_optimizer(strategy, repeated.pop("optimizer", None), config)
    _check_scheduler(strategy, repeated.pop("scheduler", None), config)
    known = {**ours, "bf16.enabled": ours["bf16"]["enabled"], "communication_data_type": config.train.precision,
             "data_types.param_dtype": config.train.precision, "data_types.grad_accum_dtype": _sums(config)}
    for key, value in repeated.items():
        if (DTYPES.get(value, value) if isinstance(value, str) else value) != known[key]:
            more = "; train.grad_sums decides, at stage 2 or 3" if key.endswith("grad_accum_dtype") else ""
            made = f"the run config makes it {json.dumps(known[key])}"
            raise UserError(f"{strategy.path} has {key} = {json.dumps(value)} but {made}{more}; drop the key or write \"auto\"")


def _check_optimizer(strategy: Strategy, section: dict | None, config: RunConfig) -> None:
    """Allows AdamW with the run's values or "auto", as in files for Hugging Face's trainer."""
    if not section:
        return
    if "muon" in str(section.get("type")).lower():
        raise UserError(f"{strategy.where} has 'optimizer' {section['type']}: DeepSpeed's takes the modulation and the last layer too, and clips after "
                        "the orthogonalization; drop the section and use train.optimizer '{name: muon}'")
    known, parameters = config.train.optimizer.as_deepspeed(config.train), section.get("params", {})
    if known is None:
        raise UserError(f"{strategy.where} has 'optimizer', but it is train.optimizer {config.train.optimizer.name}; drop "
                        "the section")
    if str(section.get("type")).lower() != "adamw" or not isinstance(parameters, dict) or {*section} - {"type", "params"}:
        raise UserError(f"{strategy.where} has 'optimizer', but the optimizer is AdamW with train.lr, train.betas and "
                        "train.weight_decay; drop the section")
    for name, value in parameters.items():
        if value != AUTO and (name not in known or value != known[name]):
            made = f"the run config makes it {json.dumps(known[name])}" if name in known else "it has no such option"
            raise UserError(f"{strategy.path} has optimizer.params.{name} = {json.dumps(value)} but {made}; drop the section")


def _check_scheduler(strategy: Strategy, section: dict | None, config: RunConfig) -> None:
    """Allows the run's schedule under DeepSpeed's name, with every number "auto"."""
    if not section:
        return
    parameters = section.get("params", {})
    is_ours = section.get("type") == WARMUPS.get(config.train.lr_schedule, "") and {*section} <= {"type", "params"}
    if not is_ours or not isinstance(parameters, dict) or any(value != AUTO for value in parameters.values()):
        raise UserError(f"{strategy.where} has 'scheduler', but the learning rate is train.lr, train.warmup_images and "
                        "train.lr_schedule; drop the section")
