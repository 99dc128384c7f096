"""A made-up study as its directory: run.json, metrics.jsonl, evals.jsonl and status.json of each run, with known truth.

Above a floor the score falls as a power of model compute and of images seen; a variant needs its own multiple of the images.
"""

import itertools
import json
import os
from pathlib import Path

import numpy as np

from ditscale.config import resolve
from ditscale.cost.runs import run_card, sampling_flops
from ditscale.rundir import DONE, RUNNING, RunDir
from ditscale.studies.launch.launch import run_record
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun, slug

FLOOR, SEED_NOISE, CHECKPOINT_NOISE = 1.6, 0.02, 0.01
MODELS = tuple(f"DiT-{size}/{patch}" for size in ("atto", "femto", "pico", "nano") for patch in (8, 4, 2))
MASKABLE = tuple(model for model in MODELS if not model.endswith("/8"))                      # /8 has one token
IMAGES_NEEDED = {"baseline": 1.0, "masked": 1.15, "mdt": 0.8, "discriminative": 0.9}          # for the same score
FLOPS_A_SECOND = 4e10


def write_study(folder: Path, models=MODELS, variants=("baseline",), seeds=(0,), evaluations: int = 8, log_lines: int = 40,
                part: float = 1.0, device: str = "Made-up CPU", recipes: int = 1) -> list[str]:
    """Writes a run for each model, variant, recipe and seed; returns their ids.

    Args:
        evaluations: of a whole run, evenly apart.
        part: how far each run is; under 1 it is still running.
        recipes: learning rates, all equally good.
    """
    spec = Spec(version=1, name=folder.name, metric={"name": "fd_digits_cnn", "goal": "minimize"}, config={})
    rates = [1e-3 * 1.01**recipe for recipe in range(recipes)]
    return [_write_run(folder, spec, _config(model, variant, rate, seed, evaluations), log_lines, evaluations, part, device)
            for model, variant, rate, seed in itertools.product(models, variants, rates, seeds)]


def _config(model: str, variant: str, rate: float, seed: int, evaluations: int):
    images = 64 * 80 * evaluations
    return resolve({
        "seed": seed, "model": {"name": model}, "data": {"name": "digits", "path": "digits.beton", "resolution": 8, "channels": 1, "classes": 10},
        "formulation": {"name": "flow"}, "objective": {"name": variant},
        "train": {"images": images, "global_batch": 64, "lr": rate, "warmup_images": 0, "precision": "bf16",
                  "ema_decay": 0.99, "checkpoint_every_images": images // evaluations},
        "evaluation": {"metric": "fd_digits_cnn", "extractor_path": "cnn.safetensors", "reference_path": "heldout.beton", "samples": 500,
                       "sampler": "heun", "sampling_steps": 8, "guidance_scale": 1.5},
        "resources": {"accelerators_per_run": 1, "deepspeed": "ds_configs/zero1.json"},
    }, "a made-up study")


def _write_run(folder: Path, spec: Spec, config, log_lines: int, evaluations: int, part: float, device: str) -> str:
    run = RunDir(folder / f"{slug(config)}-{config.science_hash()}")
    run.path.mkdir(parents=True)
    rng, card = np.random.default_rng(int(config.science_hash(), 16)), run_card(config)
    environment = {"ditscale": "0.1.0", "git_commit": "0123456789ab", "device": device}
    record = {**run_record(spec, PlannedRun(config, run)), "environment": environment, "micro_batch": 64, "zero_stage": 1}
    run.record.write_text(json.dumps(record))
    images, luck = config.train.images, np.exp(SEED_NOISE * rng.standard_normal())
    seconds = card.train_flops_per_image / FLOPS_A_SECOND + 2e-4
    score_of = lambda seen: FLOOR + 14.0 * luck * (card.macs / 1e6) ** -0.25 * (seen / images / IMAGES_NEEDED[config.objective.name]) ** -0.6
    with open(run.metrics, "w") as file:
        for line in range(1, int(part * log_lines) + 1):
            seen = images * line // log_lines
            file.write(json.dumps({"images_seen": seen, "loss/generative": 0.3 + 0.1 * score_of(seen) / FLOOR, "lr": 1e-3,
                                   "images_per_second": 1 / seconds, "seconds": seconds * images / log_lines,
                                   "accelerator_hours": seconds * seen / 3600, "peak_memory_gib": 1.0}) + "\n")
    with open(run.evals, "w") as file:
        for point in range(1, int(part * evaluations) + 1):
            seen = images * point // evaluations
            score = score_of(seen) * np.exp(CHECKPOINT_NOISE * rng.standard_normal())
            file.write(json.dumps({"images_seen": seen, "metric": "fd_digits_cnn", "score": score, "floor": FLOOR, "values": {},
                                   "error": None, "passport": _passport(config), "seconds": 3.0,
                                   "sampling_flops": sampling_flops(config) * config.evaluation.samples}) + "\n")
    status = {"state": DONE if part == 1 else RUNNING, "images_seen": int(part * images), "host": "made-up", "pid": os.getpid(), "warning": ""}
    (run.path / "status.json").write_text(json.dumps(status))
    return run.run_id


def _passport(config) -> dict:
    settings = config.evaluation
    return {"metric": settings.metric, "extractor_sha256": "ab" * 32, "reference_sha256": "cd" * 32, "reference_samples": 360,
            "samples": settings.samples, "resize": "none", "precision": "fp32", "labels": "balanced", "seed": 0, "formulation": "flow",
            "sampler": "heun", "sampling_steps": 8, "nfe": 15, "guidance_scale": settings.guidance_scale, "ema_decay": 0.99,
            "decoder": "none"}
