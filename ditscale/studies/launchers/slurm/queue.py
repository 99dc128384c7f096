"""Which runs SLURM has in its hands now.

The guard against submitting a run twice: locks may not reach across the nodes of a cluster, the queue does. A job is found by its
name, and its script's name leads to the record of what was submitted: ``<study>/slurm/<script>.json`` has the runs of an array,
in the order of its indices. The record is written before sbatch is called, so that no moment is without it.
"""

import json
import shutil
from pathlib import Path

from ditscale.formats import JOB, check_format
from ditscale.studies.launchers.protocol import Job, Queue, ask
from ditscale.studies.spec.file import Spec

FOLDER = "slurm"                                                               # of a study: scripts, records, what SLURM says
LABEL = "SLURM"


def job_name(spec: Spec) -> str:
    return f"ditscale-{spec.name}"


def live_jobs(spec: Spec, queue: Queue) -> dict[str, Job]:
    """The runs of a study that are in SLURM, by run id. Nothing is asked where nothing was submitted, or where SLURM is not.

    Raises:
        UserError: SLURM does not answer.
    """
    folder = spec.directory / FOLDER
    if not folder.is_dir() or not shutil.which("squeue"):
        return {}
    jobs = {}
    for line in ask(LABEL, "squeue", "--noheader", "--array", f"--name={job_name(spec)}", "--format=%i|%T|%o").splitlines():
        job, state, script = line.split("|", 2)
        record = folder / Path(script).with_suffix(".json").name
        if record.exists():                                                    # else of a study of this name elsewhere
            array = json.loads(record.read_text())
            check_format(JOB, array, record)
            jobs[array["runs"][int(job.split("_")[1])]] = Job(job, state, queue)
    return jobs


def stop_job(job: Job) -> str:
    """What becomes of the job."""
    if job.state == "PENDING":
        ask(LABEL, "scancel", job.id)
        return f"job {job.id} is taken from the queue"
    ask(LABEL, "scontrol", "update", f"JobId={job.id}", "Requeue=0")           # or its script would put it into the queue again
    ask(LABEL, "scancel", "--signal=USR1", job.id)
    return f"job {job.id} saves a checkpoint and ends"
