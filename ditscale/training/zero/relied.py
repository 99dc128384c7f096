"""What training relies on in DeepSpeed: versions that were tested, and private names, looked for at each start."""

import importlib
import importlib.metadata

from ditscale.errors import UserError

TESTED = "0.19"                                                                # the series that the tests ran on, as 0.19.8
PINNED = f"pip install 'deepspeed=={TESTED}.*'"

ENGINE = ("backward", "destroy", "is_gradient_accumulation_boundary", "module", "no_sync", "step", "zero_optimization_stage")
FLAT = ("_get_preflattened_grad_partition", "_link_all_hp_params", "averaged_gradients", "bit16_groups", "bit16_groups_flat",
        "cpu_offload", "optimizer", "parallel_partitioned_bit16_groups", "partition_size", "single_partition_of_fp32_groups",
        "update_lp_params")
OPTIMIZER = {                                                                  # by ZeRO stage; at stage 0 it is torch's own
    0: (), 1: FLAT, 2: FLAT,
    3: ("_partition_all_parameters", "_reassign_or_swap_out_partitioned_parameters", "fp16_groups", "fp32_partitioned_groups_flat",
        "get_fp32_grad_partitions", "optimizer", "persistent_parameters"),
}
PARAMETER = {0: (), 1: ("_hp_mapping",), 2: ("_hp_mapping",), 3: ("ds_numel", "ds_shape", "ds_tensor")}


def version() -> str:
    """The installed DeepSpeed's."""
    return importlib.metadata.version("deepspeed")


def version_note(installed: str) -> str:
    """One line where a version is outside the tested series, else an empty text."""
    if installed.split(".")[:2] == TESTED.split("."):
        return ""
    return f"DeepSpeed {installed} has not been tested here, {TESTED} has: losses may differ. {PINNED} installs that"


def check_comm() -> None:
    """Raise UserError where DeepSpeed's communication is not what extensions.py takes it for."""
    _require(importlib.import_module("deepspeed.comm.torch"), "deepspeed.comm.torch", ("build_shm_op",))


def check_engine(engine) -> None:
    """Raise UserError for the first private name of an engine that is not there any more."""
    _require(engine, "DeepSpeedEngine", ENGINE)
    stage = engine.zero_optimization_stage()
    _require(engine.optimizer, type(engine.optimizer).__name__, OPTIMIZER[stage])
    _require(next(p for p in engine.module.parameters() if p.requires_grad), "a parameter", PARAMETER[stage])


def _require(thing, what: str, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(thing, name)]
    if missing:
        raise UserError(f"DeepSpeed {version()} has no {', '.join(missing)} on {what}, and training needs it; {PINNED} has it")
