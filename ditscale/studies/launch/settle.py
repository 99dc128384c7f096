"""The last step of a job, after its ranks: ``python -m ditscale.studies.launch.settle RUN_DIR EXIT_CODE STARTED``.

Keeps ``status.json`` true where the worker was killed, and ends with 75 where the run saved a checkpoint and is to go on. With
several ranks the exit code alone does not say it: the first that leaves has the others ended, and the largest code wins.
"""

import sys

from ditscale.rundir import PREEMPTED, RunDir
from ditscale.training.preemption import EXIT_CODE


def main(run_path: str, exit_code: str, started: str) -> int:
    """``started`` is the second, since 1970, in which the ranks began: an older word about being stopped is not theirs."""
    run, code = RunDir(run_path), int(exit_code)
    if code in (0, EXIT_CODE):
        return code
    run.settle(code, since=float(started))
    return EXIT_CODE if run.status()["state"] == PREEMPTED else code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
