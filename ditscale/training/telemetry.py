"""Telemetry of a training run, to its trackers and status.json. Rank 0 writes; terms are means over all ranks."""

import math
import resource
import statistics
import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from ditscale.config import RunConfig
from ditscale.cost.hardware import dense_bf16_flops
from ditscale.cost.runs import run_card
from ditscale.cost.throughput import utilization
from ditscale.data.progress import duration
from ditscale.device import accelerator_name, is_accelerator, peak_memory
from ditscale.objectives.objective import Terms
from ditscale.ranks import World
from ditscale.rundir import RUNNING, RunDir, read_lines
from ditscale.training.guard import Found
from ditscale.training.parent import start_images
from ditscale.training.timers import Timers
from ditscale.training.trackers import Trackers


class Telemetry:
    """Sums terms on the device and seconds by part; ``flush`` reduces over ranks and writes one line.

    Nothing waits for the device between two flushes.

    Args:
        warning: returns a problem, given the means of watched values; the first message is kept.
    """

    def __init__(self, run: RunDir, world: World, config: RunConfig, warning: Callable[[dict[str, float]], str]):
        self.run, self.world, self.config, self.warning = run, world, config, warning
        self.timed, self.spikes = Timers(world.device), Spikes()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}                                    # by name, as not every micro step has every term
        self.moved: dict[str, tuple[Tensor, Tensor]] = {}                      # Movement's sums of squares for the next line
        self.images = 0
        self.since = time.perf_counter()
        self.warned, self.trackers = "", None
        self.accelerator_hours, self.skipped_steps = 0.0, 0                    # of the whole run, including earlier starts
        if world.is_main:
            self._take_up(read_lines(run.metrics))
            self.trackers = Trackers(run)
            self.trackers.start_training()

    def _take_up(self, lines: list[dict]) -> None:
        """Continues from the totals in the lines of an earlier start."""
        self.warned = next((line["warning"] for line in lines if "warning" in line), "")
        for line, before in zip(lines, [start_images(self.config), *(line["images_seen"] for line in lines)]):
            self._is_spike(_loss(line), line["images_seen"] - before)
        if lines:
            self.accelerator_hours = lines[-1].get("accelerator_hours", 0.0)
            self.skipped_steps = lines[-1].get("skipped_steps", 0)

    def add(self, terms: Terms) -> None:
        """Adds one micro batch's terms. Values that are not finite are left out, so that a skipped step does not hide the others."""
        for kind, values in (("loss", terms.losses), ("watch", terms.watched)):
            for name, value in values.items():
                key, value = f"{kind}/{name}", value.detach().float()
                finite = torch.isfinite(value)
                self.sums[key] = self.sums.get(key, 0) + torch.where(finite, value, 0)
                self.counts[key] = self.counts.get(key, 0) + finite

    def flush(self, images_seen: int, *, lr: float, found: Found, more: dict[str, float] = {}) -> None:
        """Writes the means since the last call, ``moved``, and what else was measured. Collective."""
        means, seconds = self._means(), self.timed.read()
        elapsed = time.perf_counter() - self.since
        if self.world.is_main:
            self._write(images_seen, means, {"lr": lr, **self._gradient(found), **more, **self._speed(elapsed, seconds)}, found)
        self.sums, self.counts, self.moved = {}, {}, {}
        self.images = 0
        self.since = time.perf_counter()

    def _means(self) -> dict[str, float]:
        """The mean of each term over its micro steps and ranks, which all have the same names, and the RMS ratios. Collective."""
        names, moved = sorted(self.sums), [part.to(self.world.device) for pair in self.moved.values() for part in pair]
        sums = self.world.mean(torch.stack([self.sums[name] for name in names] + moved[::2]))
        counts = self.world.mean(torch.stack([self.counts[name] for name in names] + moved[1::2]).float())
        ratios = sums / counts
        return dict(zip([*names, *self.moved], torch.cat([ratios[:len(names)], ratios[len(names):].sqrt()]).tolist()))

    def _gradient(self, found: Found) -> dict[str, float]:
        self.skipped_steps += found.skipped_steps
        norm = {"grad_norm": found.grad_norm} if math.isfinite(found.grad_norm) else {}
        return {**norm, "grad_norm_max": found.grad_norm_max, "skipped_steps": self.skipped_steps}

    def _speed(self, elapsed: float, seconds: dict[str, float]) -> dict[str, float]:
        self.accelerator_hours += elapsed * self.world.size / 3600
        speed = {"images_per_second": self.images / elapsed, "seconds": elapsed, "accelerator_hours": self.accelerator_hours,
                 **{f"seconds/{part}": round(value, 6) for part, value in seconds.items()},
                 "peak_memory_gib": _peak_memory_gib(self.world.device)}
        peak = dense_bf16_flops(accelerator_name(self.world.device)) if is_accelerator(self.world.device) else None
        if peak:
            speed["mfu"] = utilization(run_card(self.config).train_flops_per_image, self.images / elapsed, self.world.size, peak)
        return speed

    def _write(self, images_seen: int, means: dict[str, float], more: dict[str, float], found: Found) -> None:
        """Writes one line to the trackers, the status and the terminal."""
        finite = {name: mean for name, mean in means.items() if math.isfinite(mean)}  # JSON cannot represent the others
        record = {"images_seen": images_seen, **finite, **more}
        notes = self._notes(record, found)
        self.trackers.log_metrics({**record, **notes})
        self.run.set_status(RUNNING, images_seen=images_seen, warning=self.warned)
        for kind, note in notes.items():
            print(f"{kind}: {note}", flush=True)
        speed, total = record["images_per_second"], self.config.train.images
        print(f"images {images_seen:>9,} of {total:,}  loss {_loss(record):.4f}  {speed:,.0f} images/s  "
              f"{duration((total - images_seen) / speed)} left", flush=True)

    def _notes(self, record: dict[str, float], found: Found) -> dict[str, str]:
        """Notes for the user, by kind: skipped steps, a spike, the objective's first warning."""
        notes, loss = {}, _loss(record)
        if found.skipped_steps:
            notes["skipped"] = found.describe()
        if self._is_spike(loss, self.images):
            notes["spike"] = f"loss {loss:.4f}, far above its last values"
        warning = "" if self.warned else self.warning(_of_kind("watch/", record))
        if warning:                                                            # warn only once
            self.warned = notes["warning"] = warning
        return notes

    def _is_spike(self, loss: float, images: int) -> bool:
        """Ignores short lines: one that ends at a checkpoint or a stop may have few images and vary more."""
        usual = min(self.config.resources.log_every_images, self.config.train.checkpoint_every_images)
        return images >= usual / 2 and self.spikes.add(loss)

    def pause(self, seconds: float) -> None:
        """Excludes time that was not training (a checkpoint, an evaluation) from images/s."""
        self.since += seconds

    def close(self) -> None:
        if self.trackers:
            self.trackers.close()


class Spikes:
    """Detects a value far above the last 32: above the median plus 6 robust standard deviations. The first 8 never count.

    The band is at least 5 % of the median, so that a very smooth curve gives no false alarms.
    """

    def __init__(self):
        self.recent: deque[float] = deque(maxlen=32)

    def add(self, value: float) -> bool:
        """Whether the value is a spike; the value is added to the recent ones in any case. NaN is left out."""
        if math.isnan(value):
            return False
        spike = len(self.recent) >= 8 and value > self._limit()
        self.recent.append(value)
        return spike

    def _limit(self) -> float:
        middle = statistics.median(self.recent)
        spread = 1.4826 * statistics.median(abs(value - middle) for value in self.recent)
        return middle + max(6 * spread, abs(middle) / 20)


def _loss(record: dict[str, float]) -> float:
    """The training loss: the sum of its terms; NaN if no step of the interval had one."""
    return sum(_of_kind("loss/", record).values()) if _of_kind("loss/", record) else math.nan


def _of_kind(prefix: str, means: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): mean for name, mean in means.items() if name.startswith(prefix)}


def _peak_memory_gib(device: torch.device) -> float:
    """Peak memory of the accelerator, or of this process if there is none."""
    if is_accelerator(device):
        return peak_memory(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
