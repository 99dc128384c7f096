"""TensorBoard: losses and speed in ``tb/``, scores in ``tb/evals/``, both over images seen.

Scores have a folder of their own: other processes write them too (``ditscale evaluate``, a job that only scores), and TensorBoard
follows one writer a folder. They are drawn anew from evals.jsonl at each score, as a run that goes back drops lines there.
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
        """One event file with every line of evals.jsonl takes the place of those before it; it voids what they said."""
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
            path.unlink(missing_ok=True)                                       # another process may draw them too

    def close(self) -> None:
        if self.losses:
            self.losses.close()


def _writer(folder: Path, purge_step: int):
    """A writer; what it loads takes a second, so it is loaded here."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=purge_step)
