"""What a run says of itself while it trains: metrics.jsonl, TensorBoard, status.json. Rank 0 writes; terms are true means."""

import math
import resource
import time
from contextlib import contextmanager
from typing import Callable

import torch
from torch import Tensor

from ditscale.errors import TrainingFailed
from ditscale.objectives.objective import Terms
from ditscale.rundir import RUNNING, RunDir, append_line, read_lines
from ditscale.training.distributed import World, mean_over_ranks


class Telemetry:
    """Sums terms on the device and seconds by part; ``flush`` reduces over ranks and writes one line.

    Args:
        warning: what is going wrong, from the means of watched values; the first time it says something, that is kept.
    """

    def __init__(self, run: RunDir, world: World, warning: Callable[[dict[str, float]], str]):
        self.run, self.world, self.warning = run, world, warning
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}                                       # by name: not every micro step has every term
        self.images = 0
        self.seconds: dict[str, float] = {}
        self.since = time.perf_counter()
        self.warned = ""
        self.board = None
        if world.is_main:
            from torch.utils.tensorboard import SummaryWriter
            self.board = SummaryWriter(str(run.tensorboard))
            self.warned = next((line["warning"] for line in read_lines(run.metrics) if "warning" in line), "")

    @contextmanager
    def timed(self, part: str):
        """Count wall seconds under a name. On a GPU the work is queued, so these are the seconds of the Python thread."""
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def add(self, terms: Terms) -> None:
        """Count one micro batch's terms; nothing is read back from the device here."""
        for kind, values in (("loss", terms.losses), ("watch", terms.watched)):
            for name, value in values.items():
                key = f"{kind}/{name}"
                self.sums[key] = self.sums.get(key, 0) + value.detach().float()
                self.counts[key] = self.counts.get(key, 0) + 1

    def flush(self, images_seen: int, *, lr: float, grad_norm) -> None:
        """Write what has been counted since the last call. Collective.

        Raises:
            TrainingFailed: a loss term is NaN or infinite.
        """
        means = self._means()
        losses, watched = _of_kind("loss/", means), _of_kind("watch/", means)
        if not all(map(math.isfinite, losses.values())):
            raise TrainingFailed(f"the loss is not finite at {images_seen} images: {losses}")
        elapsed = time.perf_counter() - self.since
        if self.world.is_main:
            finite = {name: mean for name, mean in means.items() if math.isfinite(mean)}  # JSON has no word for the others
            record = {"images_seen": images_seen, **finite,
                      "lr": lr, "grad_norm": float(grad_norm if grad_norm is not None else 0.0),
                      "images_per_second": self.images / elapsed, "seconds": elapsed,
                      **{f"seconds/{part}": round(value, 6) for part, value in self.seconds.items()},
                      "peak_memory_gib": _peak_memory_gib(self.world.device)}
            for name, value in record.items():
                self.board.add_scalar(name, value, images_seen)
            append_line(self.run.metrics, {**record, **self._first_warning(watched)})
            self.run.set_status(RUNNING, images_seen=images_seen, warning=self.warned)
            loss, speed = sum(losses.values()), record["images_per_second"]
            print(f"images {images_seen:>9}  loss {loss:.4f}  {speed:.0f} images/s", flush=True)
        self.sums, self.counts, self.seconds = {}, {}, {}
        self.images = 0
        self.since = time.perf_counter()

    def _means(self) -> dict[str, float]:
        """The mean of each term over its micro steps and the ranks, which all have the same names. Collective."""
        names = sorted(self.sums)
        means = torch.stack([self.sums[name] / self.counts[name] for name in names])
        return dict(zip(names, mean_over_ranks(self.world, means).tolist()))

    def _first_warning(self, watched: dict[str, float]) -> dict[str, str]:
        """The warning as a field of the metrics line that first has one; empty after that, as one telling is enough."""
        warning = "" if self.warned else self.warning(watched)
        if not warning:
            return {}
        print(f"warning: {warning}", flush=True)
        self.warned = warning
        return {"warning": warning}

    def pause(self, seconds: float) -> None:
        """Leave time that was not training (a checkpoint, an evaluation) out of images/s."""
        self.since += seconds

    def close(self) -> None:
        if self.board:
            self.board.close()


def _of_kind(prefix: str, means: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): mean for name, mean in means.items() if name.startswith(prefix)}


def _peak_memory_gib(device: torch.device) -> float:
    """Peak memory of the accelerator, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
