"""Do predictions of a larger model hold on real digits? Ladders of four sizes and three seeds, each with a target of its own.

    python benchmarks/predict_digits.py [--repetitions 10] [--patch 4] [--images 12288] [--lr 1e-3] [--seconds 900]

A repetition trains atto, femto, pico and nano, predicts tiny's validation loss as `ditscale predict` does, and then trains tiny once: seeds are
new in each repetition, the draws of the validation loss are the same. The prediction's 95 % interval should hold in 19 of 20. Each line has
its width, as a wide interval always holds, and how far the held-out largest rung was off. ``sd_of_ln`` is the spread over seeds of one size. The
last line is one JSON object. It stops before a repetition that would pass ``--seconds``.
"""

import argparse
import contextlib
import io
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
from tiny import parse

from ditscale.config import RunConfig, resolve
from ditscale.cost.runs import run_card
from ditscale.data.digits import build_digits
from ditscale.errors import UserError
from ditscale.evaluation.validation import Validation
from ditscale.rundir import DONE, RunDir, read_lines
from ditscale.studies.predictions.make import predict
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.distributed import join_world
from ditscale.training.loop import train

RUNGS, TARGET = ("atto", "femto", "pico", "nano"), "tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the number of the first one, which decides its seeds: to go on later")
    parser.add_argument("--seeds", type=int, default=3, help="of each rung")
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--images", type=int, default=12288, help="of every run")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--draws", type=int, default=1024, help="of the validation loss")
    parser.add_argument("--seconds", type=float, default=900.0)
    options = parse(parser, repetitions=1, seeds=2, patch=8, images=256, draws=32)
    world, started, rows, spreads = join_world(), time.perf_counter(), [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        build_digits(folder)
        for repetition in range(options.first, options.first + options.repetitions):
            spent = time.perf_counter() - started
            if rows and spent * (1 + 1 / len(rows)) > options.seconds:
                break
            row, losses = repeat(folder, repetition, options, world)
            rows.append(row)
            spreads += losses
            print(row, flush=True)
    predicted = [row for row in rows if row["refused"] is None]
    print(json.dumps({
        "benchmark": "predict_digits", "tiny": options.tiny, "torch": torch.__version__, "patch": options.patch, "images": options.images,
        "lr": options.lr, "seeds": options.seeds, "repetitions": len(rows), "predicted": len(predicted), "inside": sum(row["inside"] for row in predicted),
        "median_half_width": median([row["half_width"] for row in predicted]), "rms_error": rms([row["error"] for row in predicted]),
        "sd_of_ln": rms(spreads), "rows": rows}))


def repeat(folder: Path, repetition: int, options, world) -> tuple[dict, list[float]]:
    """One ladder and its target; and the standard deviation over seeds of ln loss, of each rung."""
    study, first = folder / f"ladder-{repetition}", 1000 * repetition
    ends = {size: [trained(study, f"DiT-{size}/{options.patch}", first + seed, options, folder, world) for seed in range(options.seeds)] for size in RUNGS}
    spreads = [statistics.stdev(map(math.log, losses)) for losses in ends.values()]
    row = {"repetition": repetition, "rungs": {size: round(statistics.fmean(losses), 5) for size, losses in ends.items()}, "refused": None}
    target, made = f"DiT-{TARGET}/{options.patch}", None
    try:
        made = predict(study, target, images=options.images).loss
    except UserError as error:
        row["refused"] = str(error)
    actual = trained(study, target, first, options, folder, world)
    if made is None:
        return row | {"actual": round(actual, 5)}, spreads
    return row | {"way": made.way, "predicted": round(made.value, 5), "low": round(made.interval.low, 5), "high": round(made.interval.high, 5),
                  "actual": round(actual, 5), "inside": actual in made.interval, "half_width": round(made.half_width, 5),
                  "error": round(math.log(made.value / actual), 5),
                  "last_rung_error": round(made.last_rung.error, 5) if made.last_rung else None}, spreads


def trained(study: Path, model: str, seed: int, options, folder: Path, world) -> float:
    """Trains a run, computes the validation loss of its averaged weights, and returns it."""
    config, run = run_config(model, seed, options, folder), RunDir(study / f"{model.replace('/', '-')}-s{seed}")
    card = run_card(config)
    run.create({"config": config.model_dump(mode="json"), "cost": {
        "parameters": card.parameters, "tokens": card.tokens, "macs": card.macs, "train_flops_per_image": card.train_flops_per_image}})
    with contextlib.redirect_stdout(io.StringIO()):
        train(config, run, world)
        Validation(config, world).evaluate(run, list_checkpoints(run)[-1])
    run.set_status(DONE, images_seen=config.train.images)
    return read_lines(run.evals, "score")[-1]["score"]


def run_config(model: str, seed: int, options, folder: Path) -> RunConfig:
    return resolve({
        "seed": seed, "model": {"name": model, "class_dropout_prob": 0.1},
        "data": {"name": "digits", "path": str(folder / "train.beton"), "resolution": 8, "channels": 1, "classes": 10},
        "formulation": {"name": "flow"}, "objective": {"name": "baseline"},
        "train": {"images": options.images, "global_batch": 32, "lr": options.lr, "warmup_images": options.images // 8, "ema_decay": 0.99,
                  "precision": "fp32", "checkpoint_every_images": options.images},
        "evaluation": {"metric": "fd_digits_cnn", "extractor_path": "none", "reference_path": "none", "samples": 500, "sampler": "heun", "sampling_steps": 8,
                       "validation": {"path": str(folder / "heldout.beton"), "images": options.draws}},
        "resources": {"loader": "mmap", "log_every_images": options.images, "deepspeed": "ds_configs/zero1.json"},
    }, model)


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def rms(values: list[float]) -> float | None:
    return math.sqrt(statistics.fmean(value * value for value in values)) if values else None


if __name__ == "__main__":
    main()
