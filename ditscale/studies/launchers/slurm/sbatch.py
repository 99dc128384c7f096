"""The text of a batch script: one job array, one index per run, all of one shape.

``srun`` starts one task a rank. With torchrun, an agent of its own would stand between SLURM and the ranks: it swallows SIGUSR1,
kills ranks 30 seconds after SIGTERM and turns every exit code into 1. Tasks of SLURM are signalled directly, need no ssh and no
port for a rendezvous, and die with the job.

A value of the user's reaches the shell quoted, or not at all: run ids and the study's name are made of harmless letters, and the
site's words in #SBATCH lines are checked when it is read. Only ``setup`` is shell, as that is what it is for.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from ditscale.errors import count
from ditscale.studies.launchers.protocol import Shape
from ditscale.studies.launchers.slurm.site import SlurmSite

SCRIPT = """\
#!/bin/bash
# {title}
# Written by `ditscale launch`. To run what is missing launch again: it knows what is done and what is in the queue.
{options}

runs=(
{runs}
)
study={study}
run=$study/${{runs[$SLURM_ARRAY_TASK_ID]}}
python=({python})

cd {folder} || exit 1
exec >>"$run/log.txt" 2>&1
echo "job ${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID on $SLURM_JOB_NODELIST"
{setup}
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
seconds() {{                                      # since 1970, of %S or %e: SLURM itself sets these variables from 23.02 on
  local said=$(SLURM_TIME_FORMAT=standard squeue --noheader --jobs="$SLURM_JOB_ID" --format="$1" 2>/dev/null)
  [ -n "$said" ] && date --date="$said" +%s 2>/dev/null
}}
export SLURM_JOB_START_TIME=${{SLURM_JOB_START_TIME:-$(seconds %S)}}
export SLURM_JOB_END_TIME=${{SLURM_JOB_END_TIME:-$(seconds %e)}}

worker() {{
  srun --cpus-per-task={cpus} --kill-on-bad-exit=1 bash -c \\
    'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"' rank \\
    "${{python[@]}}" -m ditscale.studies.launch.worker "$run" "$@"
}}

started=$(date +%s)
{steps}
"${{python[@]}}" -m ditscale.studies.launch.settle "$run" $? "$started"
code=$?
if [ $code = 75 ]; then                          # stopped early, with a checkpoint: to the queue again
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"""


@dataclass(frozen=True)
class Array:
    """A job array: runs of one study that ask for the same.

    Args:
        steps: what each does, words for the worker: ``("",)``, ``("", "evaluate")`` or ``("evaluate",)``.
        margin_seconds: how long before its time limit a run is asked to stop.
    """

    name: str
    job_name: str
    study: Path
    run_ids: tuple[str, ...]
    shape: Shape
    margin_seconds: int
    steps: tuple[str, ...]


def render(array: Array, site: SlurmSite, folder: Path) -> str:
    """The script; runs work in ``folder``, as paths in a study are relative to where launch is called."""
    python, shape = [*shlex.split(site.container), site.python or sys.executable], array.shape
    return SCRIPT.format(
        title=f"{count(len(array.run_ids), 'run')} on {site.name}, each on {count(shape.nodes, 'node')} with {count(shape.ranks_per_node, 'rank')}",
        options="\n".join(f"#SBATCH {option}" for option in _options(array, site)),
        runs="\n".join(f"  {shlex.quote(run_id)}" for run_id in array.run_ids), study=shlex.quote(str(array.study.absolute())),
        python=shlex.join(python), folder=shlex.quote(str(folder.absolute())), setup="\n".join(_setup(site)),
        cpus=site.cpus_per_task, steps=" && ".join(f"worker {step}".strip() for step in array.steps))


def _options(array: Array, site: SlurmSite) -> list[str]:
    cap = f"%{site.runs_at_once}" if site.runs_at_once else ""
    options = [f"--job-name={array.job_name}", f"--array=0-{len(array.run_ids) - 1}{cap}", f"--nodes={array.shape.nodes}",
               f"--ntasks-per-node={array.shape.ranks_per_node}", f"--cpus-per-task={site.cpus_per_task}"]
    if site.gpus_per_node:
        options.append(f"--gres={site.gres}:{array.shape.ranks_per_node}")
    for name in ("partition", "account", "qos", "time"):
        if getattr(site, name) is not None:
            options.append(f"--{name}={getattr(site, name)}")
    if array.margin_seconds:                                                   # to the ranks, not to this script
        options.append(f"--signal=USR1@{array.margin_seconds}")
    return [*options, "--requeue", "--open-mode=append", f"--output={array.name}-%a.out", *site.extra_sbatch]


def _setup(site: SlurmSite) -> list[str]:
    variables: dict[str, str | int | float] = {"OMP_NUM_THREADS": site.cpus_per_task, "PYTHONUNBUFFERED": 1}
    if not site.gpus_per_node:
        variables["DS_ACCELERATOR"] = "cpu"
    variables.update(site.environment)
    return [*site.setup, *(f"export {name}={shlex.quote(str(value))}" for name, value in variables.items())]
