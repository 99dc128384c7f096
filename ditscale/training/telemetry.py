"""What a run says of itself while it trains: metrics.jsonl, TensorBoard, status.json. Rank 0 writes; loss terms are true means."""

import resource
import time
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from ditscale.errors import TrainingFailed
from ditscale.rundir import RUNNING, RunDir, append_line
from ditscale.training.distributed import World


class Telemetry:
    """Sums loss terms on the device and seconds by part; ``flush`` reduces over ranks and writes one line."""

    def __init__(self, run: RunDir, world: World):
        self.run, self.world = run, world
        self.terms: dict[str, Tensor] = {}
        self.micro_steps = self.images = 0
        self.seconds: dict[str, float] = {}
        self.since = time.perf_counter()
        self.board = None
        if world.is_main:
            from torch.utils.tensorboard import SummaryWriter
            self.board = SummaryWriter(str(run.tensorboard))

    @contextmanager
    def timed(self, part: str):
        """Count wall seconds under a name. On a GPU the work is queued, so these are the seconds of the Python thread."""
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def add(self, terms: dict[str, Tensor]) -> None:
        """Count one micro batch's loss terms; nothing is read back from the device here."""
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0) + value.detach()
        self.micro_steps += 1

    def flush(self, images_seen: int, *, lr: float, grad_norm) -> None:
        """Write what has been counted since the last call. Collective.

        Raises:
            TrainingFailed: a loss term is NaN or infinite.
        """
        names = sorted(self.terms)
        means = torch.stack([self.terms[name].float() for name in names]) / self.micro_steps
        if self.world.size > 1:
            dist.all_reduce(means)
            means /= self.world.size
        if not torch.isfinite(means).all():
            raise TrainingFailed(f"the loss is not finite at {images_seen} images: {dict(zip(names, means.tolist()))}")
        elapsed = time.perf_counter() - self.since
        if self.world.is_main:
            record = {"images_seen": images_seen, **{f"loss/{name}": value for name, value in zip(names, means.tolist())},
                      "lr": lr, "grad_norm": float(grad_norm if grad_norm is not None else 0.0),
                      "images_per_second": self.images / elapsed, "seconds": elapsed,
                      **{f"seconds/{part}": round(value, 6) for part, value in self.seconds.items()},
                      "peak_memory_gib": _peak_memory_gib(self.world.device)}
            append_line(self.run.metrics, record)
            for name, value in record.items():
                self.board.add_scalar(name, value, images_seen)
            self.run.set_status(RUNNING, images_seen=images_seen)
            print(f"images {images_seen:>9}  loss {means.sum().item():.4f}  {record['images_per_second']:.0f} images/s", flush=True)
        self.terms, self.seconds = {}, {}
        self.micro_steps = self.images = 0
        self.since = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Leave time that was not training (a checkpoint, an evaluation) out of images/s."""
        self.since += seconds

    def close(self) -> None:
        if self.board:
            self.board.close()


def _peak_memory_gib(device: torch.device) -> float:
    """Peak memory of the accelerator, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
