"""The interface of a tracker, and the names under which all trackers show a line's numbers."""

from typing import Protocol

from ditscale.rundir import RunDir


class Tracker(Protocol):
    """One place that a run's lines go to."""

    def __init__(self, run: RunDir): ...

    def start_training(self) -> None:
        """Before the first ``log_metrics``. What was logged of later than the last lines of metrics.jsonl and evals.jsonl is void:
        the run has gone back to a checkpoint."""

    def log_metrics(self, line: dict) -> None:
        """A line of metrics.jsonl, at its ``images_seen``."""

    def log_evaluation(self, line: dict) -> None:
        """A line of evals.jsonl, at its ``images_seen``."""

    def close(self) -> None:
        """All that was logged is kept."""


def metric_scalars(line: dict) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl; its notes, as ``spike``, are words."""
    return {name: value for name, value in line.items() if isinstance(value, (int, float))}


def evaluation_scalars(line: dict) -> dict[str, float]:
    """The numbers of a line of evals.jsonl, each under ``eval/<metric>/<passport id>``: scores of two passports share no curve."""
    metric = line["metric"]
    values = {metric: line["score"], f"{metric}_error": line.get("error"), f"{metric}_floor": line.get("floor"), **(line.get("values") or {})}
    return {f"eval/{name}/{line['passport_id']}": value for name, value in values.items() if isinstance(value, (int, float))}
