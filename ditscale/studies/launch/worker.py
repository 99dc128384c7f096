"""One rank of one run, started by the ``deepspeed`` launcher: ``deepspeed --module ditscale.studies.launch.worker RUN_DIR [evaluate]``.

Trains, evaluates each checkpoint, and keeps ``status.json`` correct in every case. With ``resources.evaluate: separately`` it
only trains, and evaluates when started with the word ``evaluate``. Exit code 0: done; 75: stopped early, to be started
again; 2: invalid input; 1: any other error.
"""

import os
import sys
import traceback

from ditscale.config import RunConfig, resolve
from ditscale.environment import environment
from ditscale.errors import TrainingFailed, UserError, count, lost_rank
from ditscale.rundir import DONE, FAILED, PREEMPTED, RunDir, read_lines, write_atomically
from ditscale.studies.launchers import job_times
from ditscale.training.preemption import EXIT_CODE, StopRequest
from ditscale.training.starting import TOO_SHORT, Start


def main(run_path: str, *words: str) -> int:
    outlive_readers()
    quiet_torch()
    run, only_evaluates = RunDir(run_path), words == ("evaluate",)
    if not _is_main() or not run.path.is_dir():
        return work(run, only_evaluates)
    with run.lock() as mine:
        return work(run, only_evaluates, "" if mine else f"{run.path} is being worked on by another process; nothing done")


def work(run: RunDir, only_evaluates: bool = False, refused: str = "") -> int:
    """Train and evaluate, or only evaluate; only rank 0 writes the status, and not that of a run that was ``refused``."""
    keeps_status = _is_main() and run.path.is_dir() and not refused
    start = Start(run, keeps_status, job_times(os.environ))
    try:
        config, problem = _read(run, refused)
        if not problem:
            stop = start.listen(config)
        world = _join(problem, start)
        finished = _go_on(config, run, world, stop, only_evaluates, start)
    except Exception as error:
        start.end()
        if start.lost_a_rank(error):
            return EXIT_CODE
        is_mistake, lost = isinstance(error, UserError), lost_rank(error)
        print(f"error: {lost or error}" if is_mistake or lost else traceback.format_exc(), file=sys.stderr, flush=True)
        if keeps_status:
            told = is_mistake or isinstance(error, TrainingFailed)
            reason = lost or (str(error) if told else f"{type(error).__name__}: {error}")
            run.set_status(FAILED, images_seen=run.status()["images_seen"], reason=reason)
        return 2 if is_mistake else 1
    start.end()
    if keeps_status:
        state = DONE if finished else PREEMPTED
        run.set_status(state, images_seen=run.status()["images_seen"], reason=stop.reason)
    return 0 if finished else EXIT_CODE


def quiet_torch() -> None:
    """To be called before torch is loaded, so that a lost rank is reported in one line without C++ stack frames."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _read(run: RunDir, refused: str) -> tuple[RunConfig | None, str]:
    """The config, and the reason why this rank cannot start, "" if it can."""
    try:
        return resolve(run.read_record()["config"], str(run.record)), refused
    except UserError as error:
        return None, str(error)


def _join(problem: str, start: Start):
    """The world. If one rank has a problem, all ranks end with a message: otherwise the others would wait half an hour for it."""
    if problem and int(os.environ.get("WORLD_SIZE", "1")) == 1:                # known before torch is loaded
        raise UserError(problem)

    start.now("loading PyTorch and DeepSpeed")
    from ditscale.training.agreement import check_ready
    from ditscale.training.distributed import join_world

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    start.now(f"waiting for {ranks} ranks" if ranks > 1 else "setting DeepSpeed up")
    world = join_world()
    check_ready(problem, world)
    return world


def _go_on(config: RunConfig, run: RunDir, world, stop: StopRequest, only_evaluates: bool, start: Start) -> bool:
    """Whether the run is finished. A start that its time limit ends without progress is a failure: it would be repeated forever."""
    def shown() -> tuple[list, int]:
        return sorted(run.checkpoints.glob("images-*")), len(read_lines(run.evals))

    before = shown()
    finished = (_evaluate if only_evaluates else _train_and_evaluate)(config, run, world, stop, start)
    if not finished and world.agree(stop.had_its_time and shown() == before):
        raise UserError(TOO_SHORT)
    return finished


def _train_and_evaluate(config: RunConfig, run: RunDir, world, stop: StopRequest, start: Start) -> bool:
    from ditscale.data.manifest import manifest_path
    from ditscale.evaluation.evaluate import Evaluator
    from ditscale.training.agreement import check_agreement
    from ditscale.training.fit import fit_micro_batch
    from ditscale.training.guard import TooManySkipped
    from ditscale.training.loop import train
    from ditscale.training.zero.strategy import zero_stage
    from ditscale.training.zero.strategyfile import read_strategy

    def asked() -> bool:
        start.end()
        return bool(stop)

    def score() -> bool:
        """Evaluates the checkpoints that are due; False if training must end here."""
        return evaluator is None or (evaluator.evaluate_missing(run, stop=asked) and not world.any(asked()))

    if world.size != config.resources.accelerators_per_run:
        raise UserError(f"started with {count(world.size, 'rank')}, but resources.accelerators_per_run is "
                        f"{config.resources.accelerators_per_run}")
    start.now("comparing the ranks, and fitting the micro batch")
    check_agreement(config, world)
    _branch_off(config, run, world)
    config = fit_micro_batch(config, world)
    if world.is_main:
        for key, why in read_strategy(config.resources.deepspeed).idle.items():
            print(f"{config.resources.deepspeed}: {key} has no effect here: {why}", flush=True)
        if (manifest := manifest_path(config.data.path)).is_file():
            write_atomically(run.manifest, manifest.read_bytes())
        run.update_record(environment=environment(world.device), micro_batch=config.micro_batch, zero_stage=zero_stage(config))
    evaluator = None
    if config.evaluation is not None and config.resources.evaluate == "in_training":
        start.now("loading what scores")
        evaluator = Evaluator(config, world)
    live = evaluator.between(run) if evaluator else {}
    compiles = " and compiling" if config.resources.compile else ""
    start.now(f"building{compiles} the model, its optimizer and the loader, and the first step")
    try:
        trained = train(config, run, world, stop=asked, after_checkpoint=score, **live)
    except TooManySkipped as error:                                            # again, from the state before it began
        print(f"{error}. Going back to the last checkpoint before that", flush=True)
        trained = train(config, run, world, stop=asked, after_checkpoint=score, **live, last_good_images=error.images)
    if evaluator is None or not trained:
        return trained
    return evaluator.evaluate_missing(run, stop=asked)                         # False if a stop prevented a score


def _branch_off(config: RunConfig, run: RunDir, world) -> None:
    """Takes up the parent's training state if the run is a branch that has not started. Collective.

    Raises:
        UserError: on every rank, if the parent does not have it.
    """
    if config.parent is None:
        return
    from ditscale.training.agreement import check_ready
    from ditscale.training.checkpoint.branch import branch_off

    problem = ""
    if world.is_main:
        try:
            branch_off(run, config)
        except UserError as error:
            problem = str(error)
    if problem and world.size == 1:
        raise UserError(problem)
    check_ready(problem, world)


def _evaluate(config: RunConfig, run: RunDir, world, stop: StopRequest, start: Start) -> bool:
    """Scores the checkpoints that are due and have no score."""
    from ditscale.evaluation.evaluate import Evaluator

    start.now("loading what scores")
    evaluator = Evaluator(config, world)
    start.end()
    return evaluator.evaluate_missing(run, stop=lambda: bool(stop))


class Lasting:
    """A text stream that discards its output once nobody reads it, instead of raising BrokenPipeError: a launcher may have ended
    while its ranks still save a checkpoint."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self._into_nothing()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._into_nothing()

    def _into_nothing(self) -> None:
        """Redirects the descriptor itself, for the output of this process and of libraries."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def outlive_readers() -> None:
    """From here on, printing cannot end this process."""
    sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)


if __name__ == "__main__":
    sys.exit(main(*(word for word in sys.argv[1:] if not word.startswith("--local_rank"))))
