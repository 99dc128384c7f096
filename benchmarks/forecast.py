"""Forecast against measurement on this machine, six models: time of a step after `plan --probe`, memory by the closed form.

    python benchmarks/forecast.py [--steps 60]

Each model is probed (20 steps), then trained for real by the `deepspeed` command, alone, as a launch would; its steps are timed
from its own metrics.jsonl. Memory is what a rank grew by at its peak in the probe. fp32 on a CPU, bf16 on a GPU. The last line is
one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from made_data import write_latents
from rich.console import Console
from tiny import parse

from ditscale.config import resolve
from ditscale.cost.hardware import Machine, this_machine
from ditscale.cost.runs import run_memory_card
from ditscale.rundir import RunDir, read_lines
from ditscale.studies.launch.launch import launch
from ditscale.studies.launch.watch import Log
from ditscale.studies.launchers.local import ThisMachine
from ditscale.studies.plan.probe import read_probes, shape_of
from ditscale.studies.plan.probing import probe_missing
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun

MODELS = (("DiT-S/8", 64, "baseline"), ("DiT-S/4", 32, "baseline"), ("DiT-S/2", 8, "baseline"), ("DiT-B/8", 32, "baseline"),
          ("DiT-S/4", 32, "masked"), ("DiT-S/4", 16, "discriminative"))
WARM_UP_LINES = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    options = parse(parser, steps=15)
    machine = this_machine()
    if machine.kind == "cpu":                                                  # one run at a time, on all cores
        machine = Machine("cpu", machine.name, 1, machine.peak_flops * machine.devices, machine.memory_bytes * machine.devices)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_latents(Path(folder) / "latents.beton")
        for number, (model, batch, variant) in enumerate([("DiT-atto/8", 8, "baseline")] if options.tiny else MODELS):
            spec, planned = make(Path(folder), number, model, batch, variant, options.steps, machine)
            rows.append(measure(spec, planned, machine))
            print(json.dumps(rows[-1]), flush=True)
    worst = {what: max(abs(row[f"{what}_error"]) for row in rows) for what in ("time", "memory")}
    print(json.dumps({"benchmark": "forecast", "tiny": options.tiny, "torch": torch.__version__, "device": machine.name, "steps": options.steps,
                      "rows": rows, "worst_time_error": worst["time"], "worst_memory_error": worst["memory"]}))


def make(folder: Path, number: int, model: str, batch: int, variant: str, steps: int, machine: Machine) -> tuple[Spec, PlannedRun]:
    """A study of one run."""
    config = resolve({
        "model": {"name": model}, "formulation": {"name": "edm"}, "objective": {"name": variant},
        "data": {"name": "latents", "path": str(folder / "latents.beton"), "resolution": 32, "channels": 4, "classes": 1000},
        "train": {"images": steps * batch, "global_batch": batch, "precision": "fp32" if machine.kind == "cpu" else "bf16",
                  "checkpoint_every_images": steps * batch},
        "resources": {"deepspeed": str(Path(__file__).parents[1] / "ds_configs/zero1.json"), "log_every_images": 5 * batch},
    }, "benchmark")
    spec = Spec(version=1, name=f"forecast-{number}", metric={"name": "none"}, config={}, runs_dir=str(folder / "runs"))
    return spec, PlannedRun(config, RunDir(spec.directory / "run"))


def measure(spec: Spec, planned: PlannedRun, machine: Machine) -> dict:
    """Probe, then train; errors are forecast / measured - 1."""
    config = planned.config
    probe_missing(spec, [planned], machine, Console(quiet=True))
    probe = read_probes(spec, machine)[shape_of(config)]
    launch(spec, [planned], ThisMachine(machine, [planned]), machine, Console(quiet=True), Log)
    lines = read_lines(planned.run.metrics)[WARM_UP_LINES:]
    steps = (lines[-1]["images_seen"] - lines[0]["images_seen"]) / config.train.global_batch
    seconds = sum(line["seconds"] for line in lines[1:]) / steps
    expected = run_memory_card(config, stage=1, offload=False, micro_batch=config.micro_batch).accelerator
    return {"model": config.model.name, "variant": config.objective.name, "batch": config.train.global_batch,
            "probe_step_seconds": round(probe.step_seconds, 4), "run_step_seconds": round(seconds, 4),
            "time_error": round(probe.step_seconds / seconds - 1, 3),
            "forecast_memory_gib": round(expected / 2**30, 3), "measured_memory_gib": round(probe.memory_bytes / 2**30, 3),
            "memory_error": round(expected / probe.memory_bytes - 1, 3)}


if __name__ == "__main__":
    main()
