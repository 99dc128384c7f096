"""The DeepSpeed JSON of a run: a strategy file with what the run config decides filled in. No torch needed."""

import json
from pathlib import Path

from ditscale.config import RunConfig
from ditscale.cost.communication import Sharding
from ditscale.errors import UserError

# Sections of a DeepSpeed JSON that would decide what the run config decides.
OURS = {
    "optimizer": "the optimizer is AdamW with train.lr, train.betas and train.weight_decay",
    "scheduler": "the learning rate is train.lr, train.warmup_images and train.lr_schedule",
    "fp16": "train.precision is bf16 or fp32",
    "amp": "train.precision is bf16 or fp32",
    "torch_autocast": "train.precision is bf16 or fp32",
}

FP32 = ("fp32", "float32", "float", "torch.float32")                           # DeepSpeed's words for it
ALONE_BUCKET = 2_000_000                                                       # numbers, that stay in a cache; DeepSpeed's 500 million are 1 to 2 GB


def deepspeed_config(config: RunConfig, world_size: int) -> dict:
    """The strategy file with what the run config decides filled in.

    Raises:
        UserError: the file is missing, not JSON, contradicts the run config (the key and both values are named), or asks for
            something whose results are not proven equal to a plain loop's.
    """
    path = Path(config.resources.deepspeed)
    strategy = _read(path)
    _check_supported(strategy, config.train.precision, path)
    train, says = config.train, dict(strategy)
    ours = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": train.global_batch // (world_size * config.micro_batch),
        "gradient_clipping": train.grad_clip,
        "bf16": {"enabled": train.precision == "bf16", "check_grad_overflow": False},
    }
    if isinstance(says.get("bf16"), dict):                                     # its other keys do not concern us
        says["bf16"] = {**ours["bf16"], **says["bf16"]}
    for key, value in ours.items():
        if says.get(key, "auto") not in ("auto", value):
            raise UserError(f"{path} says {key} = {strategy[key]!r} but the run config makes it {value!r}; "
                            f"drop the key or write \"auto\"")
    return {"steps_per_print": 10**9, **strategy, **ours, **_left_to_us(strategy, world_size)}


def _left_to_us(strategy: dict, world_size: int) -> dict:
    """What DeepSpeed is told to leave out: guard.py clips and passes over bad steps, and does not wait for the device for it.

    One rank sends its gradients to nobody, so it needs no large buffer to send them from.
    """
    zero = dict(strategy.get("zero_optimization", {}))
    left = {"gradient_clipping": 0.0, "zero_optimization": zero}
    if (zero.get("offload_optimizer") or {}).get("device", "none") != "none":
        left["zero_force_ds_cpu_optimizer"] = False                            # torch's fused AdamW runs on the CPU as well
    elif zero.get("stage", 0) in (1, 2):
        if world_size == 1:
            zero.setdefault("reduce_bucket_size", ALONE_BUCKET)
            zero.setdefault("reduce_scatter", False)                           # which divides by the number of ranks, a pass more
        if world_size == 1 and zero["stage"] == 1:                             # see zero.backward: its buffers would never be emptied
            zero["overlap_comm"] = zero["contiguous_gradients"] = False
        zero["compute_grad_norm"] = False                                      # needed by nobody, and in fp32 it is waited for
    return left


def zero_stage(config: RunConfig) -> int:
    """The ZeRO stage that the strategy file asks for."""
    return _read(Path(config.resources.deepspeed)).get("zero_optimization", {}).get("stage", 0)


def sharding(path: str) -> Sharding:
    """What the strategy file ``resources.deepspeed`` says about what ranks send each other, with DeepSpeed's defaults."""
    zero, defaults = _read(Path(path)).get("zero_optimization", {}), Sharding()

    def number(key: str, default: float) -> float:
        value = zero.get(key)                                                  # DeepSpeed itself says what is wrong with others
        return value if isinstance(value, (int, float)) and value >= 0 else default

    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise UserError(f"resources.deepspeed: {path} asks for ZeRO stage {stage!r}; stages are 0, 1, 2 and 3")
    overlap = zero.get("overlap_comm")
    live = number("stage3_max_live_parameters", 1e9)
    return Sharding(stage, stage == 3 if overlap is None else bool(overlap),
                    number("reduce_bucket_size", 0) or defaults.reduce_bucket,
                    number("stage3_max_reuse_distance", defaults.reuse_distance),
                    min(number("stage3_prefetch_bucket_size", defaults.prefetch_bucket), live),
                    bool(zero.get("use_multi_rank_bucket_allreduce", True) or not zero.get("reduce_scatter", True)))


def offloads(config: RunConfig) -> bool:
    """Whether optimizer and masters are to be in host memory."""
    offload = _read(Path(config.resources.deepspeed)).get("zero_optimization", {}).get("offload_optimizer") or {}
    return offload.get("device", "none") != "none"


def _read(path: Path) -> dict:
    try:
        strategy = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"resources.deepspeed: {path} does not exist (looked from {Path.cwd()})") from None
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"resources.deepspeed: {path} is not readable JSON: {error}") from None
    if not isinstance(strategy, dict) or not isinstance(strategy.get("zero_optimization", {}), dict):
        raise UserError(f"resources.deepspeed: {path} is not a DeepSpeed config: expected a JSON object with zero_optimization")
    return strategy


def _check_supported(strategy: dict, precision: str, path: Path) -> None:
    """Refuse what would change the result, or leave the masters where nothing here can see them."""
    where = f"resources.deepspeed: {path}"
    for key, instead in OURS.items():
        section = strategy.get(key)
        if section and not (isinstance(section, dict) and section.get("enabled") is False):
            raise UserError(f"{where} has '{key}', but {instead}; drop the section")
    zero = strategy.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise UserError(f"{where} asks for ZeRO stage {stage!r}; stages are 0, 1, 2 and 3")
    if stage == 0 and precision == "bf16":
        raise UserError(f"{where} asks for ZeRO stage 0 with train.precision bf16: DeepSpeed then sums gradients in bf16 and "
                        "keeps its masters where EMA and checkpoints cannot read them; stage 1 costs no more, or take fp32")
    if stage == 1 and precision == "bf16" and strategy.get("data_types", {}).get("grad_accum_dtype") in FP32:
        raise UserError(f"{where} asks for fp32 gradients at stage 1 with bf16, for which DeepSpeed takes another optimizer, "
                        "one that is not proven here; take stage 2 with the same data_types")
    if strategy.get("managed_gradient_accumulation") is False:
        raise UserError(f"{where} has managed_gradient_accumulation false: every micro batch would be a step of its own; drop the key")
    for key in ("offload_optimizer", "offload_param"):
        offload = zero.get(key) or {}
        if offload.get("device", "none") not in ("cpu", "none"):
            raise UserError(f"{where} has {key}.device {offload['device']!r}; cpu is supported")
        if offload.get("ratio", 1.0) != 1.0 or offload.get("super_offload"):
            raise UserError(f"{where}: {key} in part (ratio, super_offload) is not supported; drop these keys")
    for key in ("zenflow", "zero_quantized_weights", "zero_quantized_gradients", "zero_hpz_partition_size"):
        if zero.get(key) not in (None, False, 1):
            raise UserError(f"{where} has zero_optimization.{key}, which is not proven here; drop the key")
