"""Which runs SLURM has in its hands now.

The guard against submitting a run twice: locks may not reach across the nodes of a cluster, the queue does. A job is found by its
name, and its script's name leads to the record of what was submitted: ``<study>/slurm/<script>.json`` has the runs of an array,
in the order of its indices. The record is written before sbatch is called, so that no moment is without it.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ditscale.errors import UserError
from ditscale.formats import JOB, check_format
from ditscale.studies.spec.spec import Spec

FOLDER = "slurm"                                                               # of a study: scripts, records, what SLURM says


@dataclass(frozen=True)
class Job:
    """One run in SLURM: its job's id (``123_4``) and SLURM's word for its state (``PENDING``, ``RUNNING``, ...)."""

    id: str
    state: str


def job_name(spec: Spec) -> str:
    return f"ditscale-{spec.name}"


def live_jobs(spec: Spec) -> dict[str, Job]:
    """The runs of a study that are in SLURM, by run id. Nothing is asked where nothing was submitted, or where SLURM is not.

    Raises:
        UserError: SLURM does not answer.
    """
    folder = spec.directory / FOLDER
    if not folder.is_dir() or not shutil.which("squeue"):
        return {}
    jobs = {}
    for line in ask("squeue", "--noheader", "--array", f"--name={job_name(spec)}", "--format=%i|%T|%o").splitlines():
        job, state, script = line.split("|", 2)
        record = folder / Path(script).with_suffix(".json").name
        if record.exists():                                                    # else of a study of this name elsewhere
            array = json.loads(record.read_text())
            check_format(JOB, array, record)
            jobs[array["runs"][int(job.split("_")[1])]] = Job(job, state)
    return jobs


def ask(*command: str, folder: Path | None = None) -> str:
    """What a command of SLURM prints.

    Raises:
        UserError: it is not installed here, or refuses; its own words.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise UserError(f"the '{command[0]}' command is not found; SLURM is not installed here. "
                        "--launcher print shows what would be submitted") from None
    if done.returncode:
        said = "; ".join(line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip())
        raise UserError(f"{command[0]} failed: {said or f'exit code {done.returncode}'}")
    return done.stdout
