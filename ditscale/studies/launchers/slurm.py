"""Runs as SLURM's job arrays: one script for all that ask for the same, and no run submitted twice."""

import math
import secrets
import time
from pathlib import Path

from rich.console import Console

from ditscale.cost.hardware import Machine
from ditscale.errors import UserError
from ditscale.formats import JOB, stamped
from ditscale.rundir import DONE, hold, write_json
from ditscale.studies.launch.launch import is_complete, run_record, to_run
from ditscale.studies.launch.watch import say
from ditscale.studies.launchers.queue import FOLDER, ask, job_name
from ditscale.studies.launchers.sbatch import Array, render
from ditscale.studies.spec.site import Site, shape_of
from ditscale.studies.spec.spec import PlannedRun, Spec

SUBMIT = ("sbatch", "--parsable")


def submit(spec: Spec, runs: list[PlannedRun], site: Site, machine: Machine, console: Console) -> None:
    """Submit every run that is not done, has no job and is not being worked on here, and say which jobs they are.

    Raises:
        UserError: sbatch refuses, in its own words; or another launch of this study is at it.
    """
    folder = spec.directory / FOLDER
    folder.mkdir(exist_ok=True)
    with hold(folder / "lock") as mine:
        if not mine:
            raise UserError(f"another launch is submitting {spec.name} right now; try again")
        missing = [planned for planned in to_run(spec, runs, machine) if not planned.run.is_locked()]
        for array in arrays(spec, missing, site):
            for planned in missing:
                if planned.run_id in array.run_ids:
                    planned.run.create(run_record(spec, planned))
            job = _submit(array, site, folder)
            say(console, f"submitted {len(array.run_ids)} run(s) as job {job}: {folder / array.name}.sh")
        done = sum(is_complete(planned) for planned in runs)
        left = len(runs) - len(missing) - done
        say(console, f"{spec.name}: {len(runs)} runs, {done} done, {left} waiting or at work, {len(missing)} submitted")


def arrays(spec: Spec, missing: list[PlannedRun], site: Site) -> list[Array]:
    """The job arrays of these runs: those that ask for the same together, no array over the site's limit."""
    groups: dict[tuple, list[str]] = {}
    for planned in missing:
        resources = planned.config.resources
        margin = math.ceil(60 * resources.time_margin_minutes)
        _check_margin(site, margin)
        asked = (shape_of(planned.config, site.gpus_per_node), margin, _steps(planned))
        groups.setdefault(asked, []).append(planned.run_id)
    stamp, found = time.strftime("%Y%m%d-%H%M%S"), []
    for (shape, margin, steps), run_ids in groups.items():
        for first in range(0, len(run_ids), site.array_limit):
            name = f"{stamp}-{shape.nodes}x{shape.ranks_per_node}-{secrets.token_hex(3)}"
            chosen = tuple(run_ids[first:first + site.array_limit])
            found.append(Array(name, job_name(spec), spec.directory, chosen, shape, margin, steps))
    return found


def _steps(planned: PlannedRun) -> tuple[str, ...]:
    """What the worker is told, one word a start; see worker.py."""
    if planned.config.resources.evaluate != "separately":
        return ("",)
    return ("evaluate",) if planned.run.status()["state"] == DONE else ("", "evaluate")


def _check_margin(site: Site, margin_seconds: int) -> None:
    if site.time is not None and margin_seconds >= 60 * site.time:
        raise UserError(f"resources.time_margin_minutes {margin_seconds / 60:g} leaves nothing of the site's time {site.time}")


def _submit(array: Array, site: Site, folder: Path) -> str:
    """The job's id. Script and record stand before SLURM knows of them, so that what it knows is always found."""
    (folder / f"{array.name}.sh").write_text(render(array, site, Path.cwd()))
    record = {"runs": array.run_ids, "site": site.name, "submitted": time.time()}
    write_json(folder / f"{array.name}.json", stamped(JOB, record))
    job = ask(*SUBMIT, f"{array.name}.sh", folder=folder).strip().split(";")[0]
    write_json(folder / f"{array.name}.json", stamped(JOB, {**record, "job": job}))
    return job
