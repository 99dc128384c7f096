"""One rank of one run, started by the ``deepspeed`` launcher: ``deepspeed --module ditscale.studies.worker RUN_DIR``.

Trains, evaluates each checkpoint, and keeps ``status.json`` true whatever happens. Exit code 0: done; 75: stopped early, to be
started again; 2: the user's mistake; 1: anything else.
"""

import os
import sys
import traceback

from ditscale.config import RunConfig, resolve
from ditscale.environment import environment
from ditscale.errors import TrainingFailed, UserError
from ditscale.rundir import DONE, FAILED, PREEMPTED, RUNNING, RunDir
from ditscale.training.preemption import EXIT_CODE, StopRequest


def main(run_path: str) -> int:
    run = RunDir(run_path)
    if int(os.environ.get("RANK", "0")) > 0:
        return work(run)
    with run.lock() as mine:
        if not mine:
            print(f"{run.path} is being worked on by another process; nothing done", file=sys.stderr)
            return 1
        return work(run)


def work(run: RunDir) -> int:
    """Train and evaluate; only rank 0 writes the status."""
    main_rank = int(os.environ.get("RANK", "0")) == 0
    try:
        config = resolve(run.read_record()["config"], str(run.record))
        stop = StopRequest(config.resources.time_limit_minutes, config.resources.time_margin_minutes)
        if main_rank:
            run.set_status(RUNNING, images_seen=run.status()["images_seen"])
        finished = _train_and_evaluate(config, run, stop)
    except Exception as error:
        traceback.print_exc()
        if main_rank:
            reason = str(error) if isinstance(error, (UserError, TrainingFailed)) else f"{type(error).__name__}: {error}"
            run.set_status(FAILED, images_seen=run.status()["images_seen"], reason=reason)
        return 2 if isinstance(error, UserError) else 1
    if main_rank:
        state = DONE if finished else PREEMPTED
        run.set_status(state, images_seen=run.status()["images_seen"], reason=stop.reason)
    return 0 if finished else EXIT_CODE


def _train_and_evaluate(config: RunConfig, run: RunDir, stop: StopRequest) -> bool:
    from ditscale.evaluation.evaluate import Evaluator
    from ditscale.training.agreement import check_agreement
    from ditscale.training.distributed import join_world
    from ditscale.training.fit import fit_micro_batch
    from ditscale.training.guard import TooManySkipped
    from ditscale.training.loop import train

    world = join_world()
    if world.size != config.resources.accelerators_per_run:
        raise UserError(f"started with {world.size} ranks, but resources.accelerators_per_run is "
                        f"{config.resources.accelerators_per_run}")
    check_agreement(config, world)
    config = fit_micro_batch(config, world)
    if world.is_main:
        run.update_record(environment=environment(world.device), micro_batch=config.micro_batch)
    hooks = {"stop": lambda: stop}
    if config.evaluation is not None:
        evaluator = Evaluator(config, world)
        hooks["after_checkpoint"] = lambda: evaluator.evaluate_missing(run)
    try:
        return train(config, run, world, **hooks)
    except TooManySkipped as error:                                            # once more, from before it began
        print(f"{error}. Going back to the last checkpoint before that", flush=True)
        return train(config, run, world, **hooks, last_good_images=error.images)


if __name__ == "__main__":
    sys.exit(main(sys.argv[-1]))
