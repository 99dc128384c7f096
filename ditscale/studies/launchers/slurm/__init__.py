"""Runs as SLURM job arrays: one script for all runs with the same resources, and no run submitted twice.

Submitting a run twice is prevented through the queue, as locks may not work across the nodes of a cluster. A job is found by its
name, and its script's name leads to the record of what was submitted: ``<study>/slurm/<script>.json`` has the runs of an array,
in the order of its indices. The record is written before sbatch is called, so that it always exists.
"""

import json
import math
import secrets
import shlex
import shutil
import time
from pathlib import Path

from ditscale.errors import count
from ditscale.formats import JOB, check_format, stamped
from ditscale.rundir import write_json
from ditscale.studies.launchers.protocol import Job, ask, check_margin, shape_of, steps
from ditscale.studies.launchers.slurm.sbatch import Array, render
from ditscale.studies.launchers.slurm.site import SlurmSite
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun

FOLDER = "slurm"                                                               # of a study: scripts, records, what SLURM says
LABEL = "SLURM"
SUBMIT = ("sbatch", "--parsable")


class Launcher:
    """See protocol.Queue."""

    settings, tool, label, folder = SlurmSite, ("sbatch", "SLURM"), LABEL, FOLDER
    job_times = ("SLURM_JOB_START_TIME", "SLURM_JOB_END_TIME")                 # of SLURM or our batch script

    def submit(self, spec, missing, site, prepare):
        folder = spec.directory / FOLDER
        for array in arrays(spec, missing, site):
            for planned in missing:
                if planned.run_id in array.run_ids:
                    prepare(planned)
            job = _submit(array, site, folder)
            yield f"submitted {count(len(array.run_ids), 'run')} as job {job}: {folder / array.name}.sh"

    def live(self, spec) -> dict[str, Job]:
        if not (spec.directory / FOLDER).is_dir() or not shutil.which("squeue"):
            return {}
        jobs = {}
        for line in ask(LABEL, "squeue", "--noheader", "--array", f"--name={job_name(spec)}", "--format=%i|%T|%o").splitlines():
            job, state, script = line.split("|", 2)
            record = spec.directory / FOLDER / Path(script).with_suffix(".json").name
            if record.exists():                                                # otherwise it is of a study with this name elsewhere
                array = json.loads(record.read_text())
                check_format(JOB, array, record)
                jobs[array["runs"][int(job.split("_")[1])]] = Job(job, state, self)
        return jobs

    def stop(self, job: Job) -> str:
        if job.state == "PENDING":
            ask(LABEL, "scancel", job.id)
            return f"job {job.id} is removed from the queue"
        ask(LABEL, "scontrol", "update", f"JobId={job.id}", "Requeue=0")       # otherwise its script would requeue it
        ask(LABEL, "scancel", "--signal=USR1", job.id)
        return f"job {job.id} saves a checkpoint and ends"

    def show(self, spec, missing, site, machine):
        folder = spec.directory / FOLDER
        for array in arrays(spec, missing, site):
            yield f"# {folder / array.name}.sh\n{render(array, site, Path.cwd())}"
            yield f"# in {shlex.quote(str(folder))}:\n{shlex.join((*SUBMIT, f'{array.name}.sh'))}\n"


def job_name(spec: Spec) -> str:
    return f"ditscale-{spec.name}"


def arrays(spec: Spec, missing: list[PlannedRun], site: SlurmSite) -> list[Array]:
    """The job arrays of these runs: one per set of equal resources, none over the site's limit."""
    groups: dict[tuple, list[str]] = {}
    for planned in missing:
        resources = planned.config.resources
        margin = math.ceil(60 * resources.time_margin_minutes)
        check_margin(margin, site.time)
        asked = (shape_of(planned.config, site.gpus_per_node), margin, steps(planned))
        groups.setdefault(asked, []).append(planned.run_id)
    stamp, found = time.strftime("%Y%m%d-%H%M%S"), []
    for (shape, margin, words), run_ids in groups.items():
        for first in range(0, len(run_ids), site.array_limit):
            name = f"{stamp}-{shape.nodes}x{shape.ranks_per_node}-{secrets.token_hex(3)}"
            chosen = tuple(run_ids[first:first + site.array_limit])
            found.append(Array(name, job_name(spec), spec.directory, chosen, shape, margin, words))
    return found


def _submit(array: Array, site: SlurmSite, folder: Path) -> str:
    """Submits an array; returns the job's id. Script and record are written before, so that every job has them."""
    (folder / f"{array.name}.sh").write_text(render(array, site, Path.cwd()))
    record = {"runs": array.run_ids, "site": site.name, "submitted": time.time()}
    write_json(folder / f"{array.name}.json", stamped(JOB, record))
    job = ask(LABEL, *SUBMIT, f"{array.name}.sh", folder=folder).strip().split(";")[0]
    write_json(folder / f"{array.name}.json", stamped(JOB, {**record, "job": job}))
    return job
