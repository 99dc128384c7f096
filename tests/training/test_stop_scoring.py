"""A signal while a checkpoint is scored: no further batch, step or line, and the next start goes on as if nothing had been."""

import signal
import time

import pytest

from ditscale.evaluation.sampling.maker import ImageMaker
from ditscale.evaluation.scoring import Scorer
from ditscale.rundir import DONE, FAILED, PREEMPTED, hold, read_lines
from ditscale.studies.launch.worker import work
from ditscale.studies.launchers import queues
from ditscale.training.checkpoint.checkpoint import images_of, list_checkpoints
from ditscale.training.ema.ema import Averages

pytestmark = pytest.mark.usefixtures("in_repository")

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
BATCHES = 5                                                                    # of images, a scoring
CHANGES = {"train.precision": "fp32", "resources.log_every_images": 192, "evaluation.samples": 40, "evaluation.batch": 8,
           "evaluation.sampling_steps": 2, "evaluation.also": ["kid"]}         # two checkpoints, and features on disk


@pytest.fixture
def start(monkeypatch, world):
    """``start(run, 3, ImageMaker, "make")``: a worker in this process that gets SIGUSR1 in the third call of a method.

    Returns its exit code, and how often it called the method.
    """
    queues()                                                                     # loaded, as times are compared in parts of a second

    def work_until(run, number=None, kind=ImageMaker, method="make", evaluates=False):
        original, calls = getattr(kind, method), []

        def counted(self, *arguments, **options):
            calls.append(method)
            if len(calls) == number:
                signal.raise_signal(signal.SIGUSR1)
            return original(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(kind, method, counted)
            return work(run, evaluates), len(calls)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield work_until
    for number, handler in before.items():
        signal.signal(number, handler)


def scores(run):
    return {line["images_seen"]: (line["score"], line["values"]) for line in read_lines(run.evals)}


def losses(run):
    return [{name: value for name, value in line.items() if name.startswith(("images_seen", "loss/", "grad_norm"))}
            for line in read_lines(run.metrics)]


def saved(run):
    """Checkpoints, and when they were written."""
    return {images_of(path): (path / "state.json").stat().st_mtime_ns for path in list_checkpoints(run)}


def left(run):
    """State, checkpoints and scored checkpoints; nothing else may have been left behind."""
    assert not list(run.path.glob(".features*")) and [path.stem for path in sorted(run.samples.glob("*"))] == [
        f"images-{images:012d}" for images in scores(run)]
    return run.status()["state"], [*saved(run)], [*scores(run)]


def test_in_training(make_run, start):
    """At the first checkpoint, then at the start of the resumed run, then at the last checkpoint."""
    _, whole = make_run("whole", CHANGES)
    assert start(whole) == (0, 2 * BATCHES)
    _, run = make_run("parts", CHANGES)
    assert start(run, 2) == (75, 2) and run.status()["reason"] == "SIGUSR1"
    assert left(run) == (PREEMPTED, [320], [])
    first = saved(run)
    assert start(run, 1) == (75, 1)
    assert left(run) == (PREEMPTED, [320], []) and saved(run) == first
    assert start(run, BATCHES + 4) == (75, BATCHES + 4)
    assert left(run) == (PREEMPTED, [320, 640], [320])
    both = saved(run)
    assert start(run) == (0, BATCHES)
    assert left(run) == (DONE, [320, 640], [320, 640]) and saved(run) == both
    assert scores(run) == scores(whole) and losses(run) == losses(whole)


def test_in_a_job_of_its_own(make_run, start):
    _, run = make_run(changes={**CHANGES, "resources.evaluate": "separately"})
    assert start(run) == (0, 0) and left(run) == (DONE, [320, 640], [])
    assert start(run, BATCHES + 2, evaluates=True) == (75, BATCHES + 2)
    assert left(run) == (PREEMPTED, [320, 640], [320])
    assert start(run, evaluates=True) == (0, BATCHES)
    assert left(run) == (DONE, [320, 640], [320, 640])
    disturbed = scores(run)
    run.evals.unlink()
    assert start(run, evaluates=True) == (0, 2 * BATCHES) and scores(run) == disturbed


def test_when_all_images_are_made_the_score_is_written(make_run, start):
    """A run ends there, and after its last score it is done."""
    _, run = make_run(changes=CHANGES)
    assert start(run, 1, Scorer, "_further")[0] == 75 and left(run) == (PREEMPTED, [320], [320])
    assert start(run, 1, Scorer, "_further")[0] == 0 and left(run) == (DONE, [320, 640], [320, 640])


def test_a_signal_in_the_last_step(make_run, start):
    """A run is not done without its last score; where none is asked for, it is."""
    _, run = make_run("scored", CHANGES)
    assert start(run, 10, Averages, "update") == (75, 10) and left(run) == (PREEMPTED, [320, 640], [320])
    assert start(run) == (0, BATCHES) and left(run) == (DONE, [320, 640], [320, 640])
    _, run = make_run("unscored", {**CHANGES, "evaluation": None})
    assert start(run, 10, Averages, "update") == (0, 10) and left(run) == (DONE, [320, 640], [])


def test_a_start_that_is_too_short_for_a_score_is_not_repeated_for_ever(make_run, start, monkeypatch):
    """The second start gets no further than the first one: it fails, and says what would help."""
    monkeypatch.setattr("ditscale.training.preemption.StopRequest.had_its_time", True)
    _, run = make_run(changes=CHANGES)
    assert start(run, 2)[0] == 75 and left(run) == (PREEMPTED, [320], [])
    assert start(run, 2)[0] == 2 and left(run) == (FAILED, [320], [])
    assert "lower evaluation.samples" in run.status()["reason"]
    assert start(run, BATCHES + 1)[0] == 75 and left(run) == (PREEMPTED, [320, 640], [320])
    assert start(run)[0] == 0


@pytest.mark.parametrize("began, code, state", [(-3600, 75, PREEMPTED), (None, 75, PREEMPTED), (0, 2, FAILED)])
def test_a_start_late_in_a_slurm_job_is_only_put_off(make_run, start, monkeypatch, began, code, state):
    """An evaluation after training, or a run that waited, in a job that is at its end: the next job has time. Where the job began
    with this start, it has not."""
    _, run = make_run(changes={**CHANGES, "resources.evaluate": "separately"})
    assert start(run)[0] == 0
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time()))
    if began is not None:
        monkeypatch.setenv("SLURM_JOB_START_TIME", str(time.time() + began))
    assert start(run, evaluates=True)[0] == code and left(run) == (state, [320, 640], [])


def test_two_ranks_leave_together(make_run, start, start_workers):
    """Processes, and a signal from outside to the rank that has 75 batches, where the other has 76. One goes on alone."""
    _, run = make_run(changes={**CHANGES, "train.images": 128, "evaluation.samples": 151 * 4, "evaluation.batch": 4,
                               "evaluation.sampling_steps": 4, "resources.accelerators_per_run": 2})
    ranks = start_workers(run, 2)
    wait_for(lambda: list(run.path.glob(".features*/pooled.npy")), ranks)
    ranks[1].send_signal(signal.SIGUSR1)
    signalled = time.monotonic()
    assert ended(ranks) == [75, 75] and time.monotonic() - signalled < 15
    assert left(run) == (PREEMPTED, [128], [])
    assert start(run, evaluates=True) == (0, 151) and left(run) == (DONE, [128], [128])


def test_features_of_a_killed_process_are_cleared_away(make_run, start):
    """And those of another that is still at work are not: it holds their lock."""
    _, run = make_run(changes=CHANGES)
    for name in (".features-dead", ".features-alive"):
        (run.path / name).mkdir()
        (run.path / name / "pooled.npy").write_bytes(b"rows")
    with hold(run.path / ".features-alive" / "lock"):
        assert start(run) == (0, 2 * BATCHES)
    assert [path.name for path in run.path.glob(".*features-*")] == [".features-alive"]


def wait_for(condition, ranks):
    while not condition():
        assert all(rank.poll() is None for rank in ranks)
        time.sleep(0.02)


def ended(ranks):
    """The ranks' exit codes."""
    return [rank.wait(120) for rank in ranks]
