"""A run's files as one flat row: how it was trained, how fast, and with how much memory.

Values that an old run did not record are NaN for numbers and "" for text.
"""

import math
import statistics
from pathlib import Path

from ditscale.config import RunConfig
from ditscale.cost.memory import GIB
from ditscale.data.manifest import manifest_path, unique_images
from ditscale.models.sizes import parse_model_name
from ditscale.rundir import RunDir
from ditscale.studies.table.method import method_of
from ditscale.training.parent import start_images

VERSIONS = {"ditscale": "ditscale_version", "git_commit": "git_commit", "torch": "torch_version", "deepspeed": "deepspeed_version"}    # environment: column
COLUMNS = ("run_id", "model", "size", "patch_size", "variant", "method", "formulation", "block", "parametrization", "base_width", "base_depth",
           "series", "mask_ratio", "data", "unique_images", "resolution", "seed",
           "lr", "global_batch", "micro_batch", "precision", "strategy", "zero_stage", "accelerators", "device", "parameters",
           "inference_parameters", "tokens", "macs", "train_flops_per_image", "images_per_second", "mfu", "peak_memory_bytes",
           "trunk", "branch_images", "forecast_train_seconds", "forecast_basis", *VERSIONS.values(), "threads", "study_metric")
OF_COST = ("parameters", "tokens", "macs", "train_flops_per_image")            # required in a record's cost


def run_facts(run: RunDir, record: dict, config: RunConfig, metrics: list[dict]) -> dict:
    """A value for each of ``COLUMNS``.

    A model of the base size is ``standard``. ``trunk`` is the run that a branch starts from, of any other run itself; ``branch_images`` where, or 0.

    ``unique_images`` are those of the data by the manifest that the run kept, or else by the data's own.
    ``mask_ratio`` is the nominal share of masked or routed tokens. ``images_per_second`` and ``mfu`` are medians over
    the last half of the run's log lines, for all accelerators together; ``peak_memory_bytes`` is the maximum that rank 0 used
    on its accelerator or, on a CPU, in its process. ``forecast_train_seconds`` is what the whole of the run's own training was to take when it was
    launched, ``forecast_basis`` how that was known: probed or assumed. ``study_metric`` is the metric that the study's file names.
    """
    name, cost, train, resources = parse_model_name(config.model.name), record["cost"], config.train, config.resources
    late, environment, forecast = metrics[len(metrics) // 2:], record.get("environment") or {}, record.get("forecast") or {}
    return {
        "run_id": run.run_id, "model": str(name), "size": name.size, "patch_size": name.patch_size,
        "variant": config.objective.label, "method": method_of(config), "formulation": config.formulation.name, "block": config.model.block,
        "parametrization": "standard" if config.model.is_standard else config.model.parametrization,
        "series": config.series(), "base_width": config.model.base_width or math.nan, "base_depth": config.model.base_depth or math.nan,
        "mask_ratio": config.objective.left_out, "data": config.data.name,
        "unique_images": unique_images(run.manifest) or unique_images(manifest_path(config.data.path)) or math.nan,
        "resolution": config.data.resolution, "seed": config.seed, "lr": train.lr, "global_batch": train.global_batch,
        "micro_batch": record.get("micro_batch", math.nan), "precision": train.precision,
        "strategy": Path(resources.deepspeed).stem, "zero_stage": record.get("zero_stage", math.nan),
        "accelerators": resources.accelerators_per_run, "device": environment.get("device", ""),
        "parameters": cost["parameters"], "inference_parameters": cost.get("inference_parameters", math.nan),
        "tokens": cost["tokens"], "macs": cost["macs"], "train_flops_per_image": cost["train_flops_per_image"],
        "images_per_second": _median(late, "images_per_second"), "mfu": _median(late, "mfu"),
        "peak_memory_bytes": max((line["peak_memory_gib"] * GIB for line in metrics if "peak_memory_gib" in line),
                                 default=math.nan),
        "trunk": config.parent.run if config.parent else run.run_id, "branch_images": start_images(config),
        "forecast_train_seconds": forecast.get("train_seconds", math.nan), "forecast_basis": forecast.get("basis", ""),
        **{column: environment.get(name) or "" for name, column in VERSIONS.items()}, "threads": environment.get("threads", math.nan),
        "study_metric": (record.get("metric") or {}).get("name", ""),
    }


def _median(lines: list[dict], name: str) -> float:
    values = [line[name] for line in lines if name in line]
    return statistics.median(values) if values else math.nan
