"""The interface of a tracker, and the names that all trackers use for a line's numbers."""

from typing import Protocol

from ditscale.rundir import RunDir


class Tracker(Protocol):
    """One destination of a run's lines."""

    def __init__(self, run: RunDir): ...

    def start_training(self) -> None:
        """Called before the first ``log_metrics``. Anything logged after the last lines of metrics.jsonl and evals.jsonl is void, as
        the run went back to a checkpoint."""

    def log_metrics(self, line: dict) -> None:
        """Logs a line of metrics.jsonl at its ``images_seen``."""

    def log_evaluation(self, line: dict) -> None:
        """Logs a line of evals.jsonl at its ``images_seen``."""

    def close(self) -> None:
        """Makes everything logged so far durable."""


def metric_scalars(line: dict) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl, without notes such as ``spike``."""
    return {name: value for name, value in line.items() if isinstance(value, (int, float))}


def evaluation_scalars(line: dict) -> dict[str, float]:
    """The numbers of a line of evals.jsonl, each under ``eval/<metric>/<passport id>``: scores with different passports are different curves."""
    metric = line["metric"]
    values = {metric: line["score"], f"{metric}_error": line.get("error"), f"{metric}_floor": line.get("floor"), **(line.get("values") or {})}
    return {f"eval/{name}/{line['passport_id']}": value for name, value in values.items() if isinstance(value, (int, float))}
