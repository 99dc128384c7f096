"""Trackers: destinations of a run's log lines. ``TRACKERS`` is the list; to add one, add a file here and its name.

W&B, MLflow and Trackio are not trackers: ``ditscale mirror`` sends the files to them later, so that no service can delay a step.
"""

from ditscale.rundir import RunDir
from ditscale.training.trackers.jsonl import Jsonl
from ditscale.training.trackers.tensorboard import TensorBoard
from ditscale.training.trackers.tracker import Tracker
from ditscale.writing import writing

TRACKERS: tuple[type[Tracker], ...] = (Jsonl, TensorBoard)                     # files first, as the others may read them


class Trackers:
    """All of ``TRACKERS`` as one, for a run. Created only on rank 0."""

    def __init__(self, run: RunDir):
        self._trackers = [tracker(run) for tracker in TRACKERS]

    def start_training(self) -> None:
        for tracker in self._trackers:
            tracker.start_training()

    def log_metrics(self, line: dict) -> None:
        for tracker in self._trackers:
            tracker.log_metrics(line)

    def log_evaluation(self, line: dict) -> None:
        """One of imported weights, whose images are not known, is written to the files alone: the others draw over images."""
        for tracker in self._trackers[:1] if line["images_seen"] is None else self._trackers:
            tracker.log_evaluation(line)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def log_score(run: RunDir, line: dict) -> None:
    """``log_evaluation`` of all trackers. Raises UserError if the run cannot be written."""
    with writing(run.evals):
        Trackers(run).log_evaluation(line)
