"""The run's files metrics.jsonl and evals.jsonl, from which everything else can be rebuilt."""

from ditscale.rundir import RunDir, append_line


class Jsonl:
    def __init__(self, run: RunDir):
        self.run = run

    def start_training(self) -> None:
        """Nothing to do: void lines were removed when the run went back (``keep_lines``)."""

    def log_metrics(self, line: dict) -> None:
        append_line(self.run.metrics, line)

    def log_evaluation(self, line: dict) -> None:
        append_line(self.run.evals, line)

    def close(self) -> None:
        """Nothing to do: each line is already in its file."""
