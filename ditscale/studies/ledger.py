"""A study's run directories as one table: a row an evaluation. Files are the truth; nothing here is stored.

Column ``passport`` stands for all of a passport but the seed of the samples: equal ones are repetitions of one score.
"""

import json
from pathlib import Path

import pandas as pd

from ditscale.config import resolve
from ditscale.cost.runs import training_flops
from ditscale.errors import UserError
from ditscale.evaluation.passport import SEED, digest
from ditscale.models.sizes import parse_model_name
from ditscale.rundir import DONE, RunDir, read_lines

COLUMNS = ("run_id", "model", "size", "patch_size", "variant", "formulation", "seed", "parameters", "tokens", "macs",
           "train_flops_per_image", "images_seen", "final", "train_flops", "metric", "score", "floor", "samples", "guidance_scale",
           "nfe", "passport", "sample_seed", "passport_fields", "train_seconds", "device", "sample_sheet")


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
            "train_seconds": sum(m["seconds"] for m in metrics if m["images_seen"] <= images_seen),
            "device": record.get("environment", {}).get("device", ""), "sample_sheet": str(sheet.resolve()) if sheet.exists() else "",
        })
    return rows
