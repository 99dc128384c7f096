"""A table of how every key of a DeepSpeed JSON is handled, as of DeepSpeed 0.19; ``strategyfile.py`` applies it.

A strategy may only decide where memory goes. So a key either affects only memory, communication or logs (ALLOWED), repeats the run
config (RUN), has no effect on anything that runs here (IDLE, left out), or would change a result without changing the run
id, or is not tested here (REFUSED, except for values without effect). A test compares this table with the
installed DeepSpeed's.
"""

from dataclasses import dataclass

ALLOWED, RUN, IDLE, REFUSED = "allowed", "from the run config", "without effect here", "refused"
BOOL, COUNT, POSITIVE, SHARE, TEXT = "true or false", "a whole number", "a whole number above 0", "a number from 0 to 1", "a string"
SECTION, LIST = "an object", "a list"


@dataclass(frozen=True)
class Key:
    """One key.

    Args:
        kind: how it is handled.
        type: its type, one of the names above, or a tuple of its values; for ALLOWED and RUN.
        why: for RUN the config key that decides, for IDLE and REFUSED the reason.
        off: the values without effect; for a refused key "auto" is always one of them.
        switch: the key that turns a section on; a section that is off has no effect.
        keys: the keys of a section.
    """

    kind: str
    type: str | tuple = ""
    why: str = ""
    off: tuple = ()
    switch: str = ""
    keys: dict | None = None


def _flag(why: str) -> Key:
    return Key(REFUSED, BOOL, why, off=(False,))


def _section(why: str, switch: str = "enabled") -> Key:
    return Key(REFUSED, SECTION, why, off=(False,), switch=switch)


def _each(names: str, key: Key) -> dict[str, Key]:
    return dict.fromkeys(names.split(), key)


_OWN_LOGS = "a run logs to metrics.jsonl and tb/ by itself"
_REMOVED = "DeepSpeed has removed it"
_UNPROVEN = "it is not tested here that the results stay the same"
_ROUNDS = "it rounds gradients differently, and the run id does not show that"
_QUANTIZED = "it rounds what ranks send each other, and the run id does not show that"
_CHECKPOINTS = "ditscale writes its own checkpoints"
_NVME = "it is for NVMe, which is not supported"
_MODEL = "the model is not split over ranks by layers, experts or tokens"

OFFLOAD = {
    "device": Key(ALLOWED, ("none", "cpu")),
    "pin_memory": Key(ALLOWED, BOOL),
    **_each("nvme_path buffer_count pipeline pipeline_read pipeline_write fast_init", Key(IDLE, why=_NVME)),
}
OFFLOAD_OPTIMIZER = {
    **OFFLOAD,
    "ratio": Key(REFUSED, SHARE, "partial offload is not supported", off=(1, 1.0)),
    "super_offload": _flag("partial offload is not supported"),
    "cpuadam_cores_perc": Key(IDLE, why="torch's fused AdamW also runs on the CPU"),
}
OFFLOAD_PARAM = {**OFFLOAD, "buffer_size": Key(IDLE, why=_NVME), "max_in_cpu": Key(IDLE, why=_NVME)}

ZERO = {
    "stage": Key(ALLOWED, (0, 1, 2, 3)),
    "overlap_comm": Key(ALLOWED, BOOL, off=(None,)),
    **_each("contiguous_gradients reduce_scatter use_multi_rank_bucket_allreduce allgather_partitions parameter_alignment "
            "ignore_unused_parameters memory_efficient_linear override_module_apply log_trace_cache_warnings enable_sanity_checks",
            Key(ALLOWED, BOOL)),
    **_each("reduce_bucket_size sub_group_size", Key(ALLOWED, POSITIVE)), "allgather_bucket_size": Key(ALLOWED, COUNT),
    "round_robin_gradients": _flag("parameters would be on other ranks than training expects"),
    "offload_optimizer": Key(ALLOWED, SECTION, off=(None,), keys=OFFLOAD_OPTIMIZER),
    "offload_param": Key(ALLOWED, SECTION, off=(None,), keys=OFFLOAD_PARAM),
    **{f"{prefix}{name}": Key(ALLOWED, kind) for prefix in ("", "stage3_") for name, kind in (
        ("prefetch_bucket_size", COUNT), ("param_persistence_threshold", COUNT), ("model_persistence_threshold", COUNT),
        ("max_live_parameters", COUNT), ("max_reuse_distance", COUNT), ("module_granularity_threshold", COUNT),
        ("use_all_reduce_for_fetch_params", BOOL), ("allgather_sequential", BOOL))},
    **_each("gather_16bit_weights_on_model_save stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save "
            "load_from_fp32_weights elastic_checkpoint pipeline_loading_checkpoint", Key(IDLE, why=_CHECKPOINTS)),
    "compute_grad_norm": Key(IDLE, why="ditscale measures the norm itself"),
    "save_muon_momentum_buffer_in_memory": Key(IDLE, why=_NVME),
    "cpu_offload": _flag('it is deprecated; write "offload_optimizer": {"device": "cpu"}'),
    "cpu_offload_param": _flag('it is deprecated; write "offload_param": {"device": "cpu"}'),
    "cpu_offload_use_pin_memory": Key(IDLE, why="it is deprecated; use pin_memory in offload_optimizer and offload_param"),
    "legacy_stage1": _flag(_REMOVED),
    "zero_hpz_partition_size": Key(REFUSED, COUNT, _UNPROVEN, off=(1,)),
    **_each("zero_quantized_weights zero_quantized_gradients zero_quantized_nontrainable_weights", _flag(_QUANTIZED)),
    "zenflow": Key(REFUSED, SECTION, "it updates weights from gradients of earlier steps", off=(None,)),
    "leaf_module": Key(REFUSED, SECTION, _UNPROVEN, off=({},)),
    "mics_shard_size": Key(REFUSED, COUNT, _REMOVED, off=(-1,)), "mics_hierarchical_params_gather": _flag(_REMOVED),
    "zeropp_loco_param": Key(REFUSED, SECTION, _REMOVED, off=(None,)),
}

BF16 = {
    "enabled": Key(RUN, BOOL, "train.precision"),
    "check_grad_overflow": Key(IDLE, why="ditscale itself skips steps with a gradient that is not finite"),
    "immediate_grad_update": Key(IDLE, why="it is for an optimizer that is not used here"),
    **_each("bf16_master_weights_and_grads bf16_optimizer_states", _flag("averages and checkpoints need fp32 masters")),
}
DATA_TYPES = {
    "grad_accum_dtype": Key(RUN, TEXT, "train.grad_sums"),
    "param_dtype": Key(RUN, TEXT, "train.precision"),
    "buffer_dtype": Key(REFUSED, TEXT, "buffers keep the model's precision", off=(None,)),
    "keep_in_fp32_modules": Key(REFUSED, LIST, "the run id does not show which they are", off=([],)),
}
COMMS_LOGGER = {**_each("enabled verbose prof_all debug", Key(ALLOWED, BOOL)), "prof_ops": Key(ALLOWED, LIST)}
THROUGHPUT = _each("enabled synchronized", Key(ALLOWED, BOOL))

TOP = {
    "zero_optimization": Key(ALLOWED, SECTION, keys=ZERO),
    "steps_per_print": Key(ALLOWED, POSITIVE),
    **_each("wall_clock_breakdown memory_breakdown dump_state disable_python_gc", Key(ALLOWED, BOOL)),
    "log_level": Key(ALLOWED, ("debug", "info", "warning", "error", "critical")),
    "comms_logger": Key(ALLOWED, SECTION, keys=COMMS_LOGGER),
    "timers": Key(ALLOWED, SECTION, keys={"throughput": Key(ALLOWED, SECTION, keys=THROUGHPUT)}),

    "train_batch_size": Key(RUN, POSITIVE, "train.global_batch"),
    "train_micro_batch_size_per_gpu": Key(RUN, POSITIVE, "resources.micro_batch"),
    "gradient_accumulation_steps": Key(RUN, POSITIVE, "train.global_batch and resources.micro_batch"),
    "gradient_clipping": Key(RUN, "a number", "train.grad_clip"),
    "bf16": Key(RUN, SECTION, "train.precision", keys=BF16),
    "data_types": Key(RUN, SECTION, "train.precision and train.grad_sums", keys=DATA_TYPES),
    "communication_data_type": Key(RUN, TEXT, "train.precision"),
    "optimizer": Key(RUN, SECTION, "the optimizer is AdamW with train.lr, train.betas and train.weight_decay"),
    "scheduler": Key(RUN, SECTION, "the learning rate is train.lr, train.warmup_images and train.lr_schedule"),

    "gradient_allreduce_op": Key(REFUSED, TEXT, "the gradient is the mean over the batch", off=("mean",)),
    "prescale_gradients": _flag(_ROUNDS),
    "gradient_predivide_factor": Key(REFUSED, "a number", _ROUNDS, off=(1, 1.0)),
    "managed_gradient_accumulation": Key(REFUSED, BOOL, "every micro batch would be a separate step", off=(True,)),
    **_each("fp16 amp torch_autocast", _section("train.precision is bf16 or fp32")),
    "bfloat16": Key(REFUSED, SECTION, "it is deprecated; write bf16"),
    "compile": _section("resources.compile compiles the blocks; DeepCompile is not tested here", "deepcompile"),
    "data_efficiency": _section("the run config decides the order of images and tokens"),
    **_each("curriculum_learning progressive_layer_drop eigenvalue quantize_training compression_training sparse_attention elasticity "
            "nebula", _section(_REMOVED)),
    **_each("sparse_gradients graph_harvesting", _flag(_REMOVED)),
    "weight_quantization": Key(REFUSED, SECTION, "weights are trained without quantization"),
    "expert_parallel": _section(_MODEL), "tensor_parallel": Key(REFUSED, SECTION, _MODEL, off=({},)),
    "sequence_parallel_size": Key(REFUSED, COUNT, _MODEL, off=(1,)),
    "hybrid_engine": _section("it is for training that alternates with generation"),
    "autotuning": _section("it would start its own runs"),
    "flops_profiler": _section("ditscale plan shows the FLOPs, metrics.jsonl the seconds"),
    **_each("tensorboard wandb csv_monitor comet", _section(_OWN_LOGS)),

    "activation_checkpointing": Key(IDLE, why="resources.checkpoint_activations decides"),
    "checkpoint": Key(IDLE, why=_CHECKPOINTS), "datastates_ckpt": Key(IDLE, why=_CHECKPOINTS),
    "aio": Key(IDLE, why=_NVME), "dataloader_drop_last": Key(IDLE, why="ditscale has its own loader"),
    "disable_allgather": Key(IDLE, why="DeepSpeed no longer reads it"),
    "pipeline": Key(IDLE, why=_MODEL), "use_data_before_expert_parallelism": Key(IDLE, why=_MODEL),
    "seq_parallel_communication_data_type": Key(IDLE, why=_MODEL), "vocabulary_size": Key(IDLE, why="there is no vocabulary"),
    "zero_allow_untested_optimizer": Key(IDLE, why="ditscale chooses the optimizer"),
    "zero_force_ds_cpu_optimizer": Key(IDLE, why="torch's fused AdamW also runs on the CPU"),
}
