"""The last step of a job, after its ranks: ``python -m ditscale.studies.launch.settle RUN_DIR EXIT_CODE STARTED``.

Corrects ``status.json`` if the worker was killed, and ends with 75 if the run saved a checkpoint and should continue. With
several ranks the exit code is not enough: the first rank that leaves ends the others, and the largest code wins.
"""

import sys

from ditscale.rundir import PREEMPTED, RunDir
from ditscale.training.preemption import EXIT_CODE


def main(run_path: str, exit_code: str, started: str) -> int:
    """``started`` is the Unix time at which the ranks began: an older status about a stop is not from them."""
    run, code = RunDir(run_path), int(exit_code)
    if code in (0, EXIT_CODE):
        return code
    run.settle(code, since=float(started))
    return EXIT_CODE if run.status()["state"] == PREEMPTED else code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
