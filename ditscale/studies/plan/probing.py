"""Measures twenty real steps of each distinct shape of a study on this machine, to plan before any run has started.

A probe runs as many copies at once as a launch would, so that it includes the slowdown by concurrent runs. torch is not loaded here.
"""

import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from rich.console import Console

from ditscale.config import RunConfig
from ditscale.cost.hardware import Machine
from ditscale.errors import UserError
from ditscale.rundir import RunDir, write_json
from ditscale.studies.launchers.local import ThisMachine
from ditscale.studies.plan.probe import KEPT, RESULT, Probe, read_probe, read_probes, shape_of
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.inputs import check_inputs, check_writable
from ditscale.studies.spec.spec import PlannedRun

LEAST_STEPS = 12                                                               # shorter runs are too short to probe


def probe_missing(spec: Spec, runs: list[PlannedRun], machine: Machine, console: Console) -> None:
    """Measures each shape of these runs that was not measured on this kind of machine; each result is stored at once.

    A failure is printed, and the others continue.

    Raises:
        UserError: the study's folder cannot be written.
    """
    known, launcher = read_probes(spec, machine), ThisMachine(machine, runs)
    shapes = {shape_of(planned.config): planned for planned in runs if _steps(planned.config) >= LEAST_STEPS}
    missing = {shape: planned for shape, planned in shapes.items() if shape not in known}
    if missing:
        check_writable(spec.directory)
    for number, (shape, planned) in enumerate(missing.items(), 1):
        console.print(f"probe {number} of {len(missing)}: {planned.run_id}", end=" ")
        try:
            found = _probe(planned, launcher)
        except UserError as error:
            console.print(f"failed: {error}", markup=False, soft_wrap=True)
            continue
        console.print(f"{found.step_seconds * 1e3:,.3g} ms per step, {found.memory_bytes / 2**30:.2f} GiB per rank")
        _keep(spec.directory / KEPT, machine.name, shape, found)


def _steps(config: RunConfig) -> int:
    return config.train.images // config.train.global_batch


def _probe(planned: PlannedRun, launcher: ThisMachine) -> Probe:
    """The mean over all copies, without scores or checkpoints.

    Raises:
        UserError: a file that the run reads is wrong, or a probe failed (the message is from its log).
    """
    config = planned.config
    last = _steps(config) * config.train.global_batch
    config = config.model_copy(update={"evaluation": None, "parent": None, "train": config.train.model_copy(update={"checkpoint_every_images": last})})
    check_inputs([PlannedRun(config, planned.run)])
    with tempfile.TemporaryDirectory(prefix="ditscale-probe-") as folder:
        runs = [RunDir(Path(folder) / str(place)) for place in range(len(launcher.places))]
        processes = []
        try:
            for run, place in zip(runs, launcher.places, strict=True):
                processes.append(_start(config, run, launcher, place))
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        for code, run in zip(codes, runs, strict=True):
            if code or not (run.path / RESULT).exists():
                raise UserError(next((line for line in reversed(run.last_lines()) if "rror" in line), f"exit code {code}"))
        measured = [read_probe(run.path / RESULT) for run in runs]
    return Probe(mean(one["step_seconds"] for one in measured), max(one["memory_bytes"] for one in measured),
                 measured[0]["micro_batch"], measured[0]["steps"], len(measured))


def _start(config: RunConfig, run: RunDir, launcher: ThisMachine, place: tuple[int, ...]) -> subprocess.Popen:
    run.create({"run_id": run.run_id, "config": config.model_dump(mode="json")})
    command = launcher.command_of(("--no_local_rank", "--module", "ditscale.studies.plan.probe_worker", str(run.path)), place,
                                  config.resources.accelerators_per_run)
    return command.start(run.log)


def _keep(path: Path, machine: str, shape: str, probe: Probe) -> None:
    kept = read_probe(path)
    kept.setdefault(machine, {})[shape] = asdict(probe)
    write_json(path, kept)
