"""Runs as SLURM's job arrays: one script for all that ask for the same, and no run submitted twice."""

import math
import secrets
import shlex
import time
from pathlib import Path

from ditscale.formats import JOB, stamped
from ditscale.rundir import write_json
from ditscale.studies.launchers.protocol import Job, ask, check_margin, shape_of, steps
from ditscale.studies.launchers.slurm.queue import FOLDER, LABEL, job_name, live_jobs, stop_job
from ditscale.studies.launchers.slurm.sbatch import Array, render
from ditscale.studies.launchers.slurm.site import SlurmSite
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun

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
            yield f"submitted {len(array.run_ids)} run(s) as job {job}: {folder / array.name}.sh"

    def live(self, spec) -> dict[str, Job]:
        return live_jobs(spec, self)

    def stop(self, job: Job) -> str:
        return stop_job(job)

    def show(self, spec, missing, site, machine):
        folder = spec.directory / FOLDER
        for array in arrays(spec, missing, site):
            yield f"# {folder / array.name}.sh\n{render(array, site, Path.cwd())}"
            yield f"# in {shlex.quote(str(folder))}:\n{shlex.join((*SUBMIT, f'{array.name}.sh'))}\n"


def arrays(spec: Spec, missing: list[PlannedRun], site: SlurmSite) -> list[Array]:
    """The job arrays of these runs: those that ask for the same together, no array over the site's limit."""
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
    """The job's id. Script and record stand before SLURM knows of them, so that what it knows is always found."""
    (folder / f"{array.name}.sh").write_text(render(array, site, Path.cwd()))
    record = {"runs": array.run_ids, "site": site.name, "submitted": time.time()}
    write_json(folder / f"{array.name}.json", stamped(JOB, record))
    job = ask(LABEL, *SUBMIT, f"{array.name}.sh", folder=folder).strip().split(";")[0]
    write_json(folder / f"{array.name}.json", stamped(JOB, {**record, "job": job}))
    return job
