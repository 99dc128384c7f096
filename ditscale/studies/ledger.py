"""A study's run directories as one table: a row an evaluation. Files are the truth; nothing here is stored.

Column ``passport`` stands for all of a passport but the seed of the samples: equal ones are repetitions of one score. Column
``recipe`` stands for all of a run's science but its seed and how it is scored: runs of equal recipes differ by luck alone.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from ditscale.config import RunConfig, resolve
from ditscale.cost.runs import training_flops
from ditscale.errors import UserError
from ditscale.evaluation.passport import SEED, digest
from ditscale.models.sizes import parse_model_name
from ditscale.rundir import DONE, RunDir, read_lines

COLUMNS = ("run_id", "model", "size", "patch_size", "variant", "formulation", "seed", "parameters", "tokens", "macs",
           "train_flops_per_image", "images_seen", "final", "train_flops", "metric", "score", "floor", "samples", "guidance_scale",
           "nfe", "passport", "sample_seed", "passport_fields", "train_seconds", "device", "sample_sheet",
           "recipe", "accelerator_hours")


def collect(study) -> pd.DataFrame:
    """Every evaluation of a study directory, sorted by training compute.

    Raises:
        UserError: there is no such directory, or it holds no run.
    """
    study = Path(study)
    runs = run_dirs(study)
    rows = [row for run in runs for row in _rows(run)]
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["train_flops", "run_id"], ignore_index=True)


def run_dirs(study: Path) -> list[RunDir]:
    """The runs of a study, by name."""
    if not study.is_dir():
        raise UserError(f"{study} is not a study directory; `ditscale launch` makes one under runs/")
    runs = [RunDir(record.parent) for record in sorted(study.glob("*/run.json"))]
    if not runs:
        raise UserError(f"{study} holds no run (no */run.json)")
    return runs


def _rows(run: RunDir) -> list[dict]:
    record, evals, metrics = run.read_record(), read_lines(run.evals), read_lines(run.metrics)
    config, cost = resolve(record["config"], str(run.record)), record["cost"]
    name = parse_model_name(config.model.name)
    last = max((line["images_seen"] for line in evals), default=0)
    rows = []
    for line in evals:
        images_seen, passport = line["images_seen"], line["passport"]
        sheet = run.samples / f"images-{images_seen:012d}.npz"
        rows.append({
            "run_id": run.run_id, "model": str(name), "size": name.size, "patch_size": name.patch_size,
            "variant": config.objective.name, "formulation": config.formulation.name, "seed": config.seed,
            "parameters": cost["parameters"], "tokens": cost["tokens"], "macs": cost["macs"],
            "train_flops_per_image": cost["train_flops_per_image"], "images_seen": images_seen,
            "final": run.status()["state"] == DONE and images_seen == last,
            "train_flops": training_flops(config, images_seen), "metric": line["metric"], "score": line["score"],
            "floor": line["floor"], "samples": passport["samples"], "guidance_scale": passport["guidance_scale"],
            "nfe": passport["nfe"], "passport": digest(passport, without=(SEED,)), "sample_seed": passport.get(SEED),
            "passport_fields": json.dumps(passport, sort_keys=True),
            "train_seconds": spent(metrics, np.cumsum([m["seconds"] for m in metrics]), images_seen),
            "device": record.get("environment", {}).get("device", ""), "sample_sheet": str(sheet.resolve()) if sheet.exists() else "",
            "recipe": recipe(config),
            "accelerator_hours": spent(metrics, [m.get("accelerator_hours", np.nan) for m in metrics], images_seen),
        })
    return rows


def spent(metrics: list[dict], totals, images_seen: int) -> float:
    """What training up to ``images_seen`` took, from the running totals at each line of metrics.jsonl; NaN where they do not say.

    A checkpoint lies between two lines as a rule: the time between them is shared out by images.
    """
    if not metrics or images_seen > metrics[-1]["images_seen"]:
        return float("nan")
    return float(np.interp(images_seen, [0, *(line["images_seen"] for line in metrics)], [0.0, *totals]))


def recipe(config: RunConfig) -> str:
    """8 hex of what decides a run's result, but for its seed; how often it is saved and how it is scored are left out."""
    science = config.science()
    science.pop("seed", None)
    science.pop("evaluation", None)
    science["train"].pop("checkpoint_every_images", None)
    return hashlib.sha256(json.dumps(science, sort_keys=True).encode()).hexdigest()[:8]
