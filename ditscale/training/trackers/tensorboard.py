"""TensorBoard: losses and speed in ``tb/``, scores in ``tb/evals/``, both over images seen.

Scores have a separate folder, as other processes also write them (``ditscale evaluate``, a job that only scores), and TensorBoard
follows one writer per folder. They are rewritten from evals.jsonl at each score, as a run that goes back drops lines there.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ditscale.rundir import EVALUATION, RunDir, last_line, read_lines
from ditscale.training.trackers.tracker import evaluation_scalars, metric_scalars

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    def __init__(self, run: RunDir):
        self.run = run
        self.losses: SummaryWriter | None = None

    def start_training(self) -> None:
        last = last_line(self.run.metrics, "images_seen")
        self.losses = _writer(self.run.tensorboard, purge_step=last["images_seen"] + 1 if last else 0)
        self._draw_evaluations()

    def log_metrics(self, line: dict) -> None:
        for name, value in metric_scalars(line).items():
            self.losses.add_scalar(name, value, line["images_seen"])

    def log_evaluation(self, line: dict) -> None:
        self._draw_evaluations()

    def _draw_evaluations(self) -> None:
        """Replaces earlier event files by one with every line of evals.jsonl."""
        folder = self.run.tensorboard / "evals"
        lines, before = read_lines(self.run.evals, "images_seen", "passport_id", *EVALUATION), list(folder.glob("events.*"))
        if not lines and not before:
            return
        writer = _writer(folder, purge_step=0)
        for line in sorted(lines, key=lambda line: line["images_seen"]):
            for name, value in evaluation_scalars(line).items():
                writer.add_scalar(name, value, line["images_seen"])
        writer.close()
        for path in before:
            path.unlink(missing_ok=True)                                       # another process may also do this

    def close(self) -> None:
        if self.losses:
            self.losses.close()


def _writer(folder: Path, purge_step: int):
    """A writer; imported here, as the import takes a second."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=purge_step)
