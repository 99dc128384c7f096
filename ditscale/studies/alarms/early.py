"""Early warning of a learning rate that is too high: in the first part of training, before the off-track alarm can judge the loss.

Two signs, each compared with the highest of at least three siblings over the same images: a gradient norm that rises, and an update far larger
relative to the weights. The factors are rules of thumb, without a false-alarm rate. A sweep over learning rates sets them off on purpose.
"""

import json
import statistics
from functools import lru_cache
from pathlib import Path

from ditscale.scaling.collapse import FROM
from ditscale.studies.alarms.sibling import Sibling

LEAST_SIBLINGS, LEAST_LINES = 3, 4
UPDATE = "update/"
NORM, GROWTH, MOVED = 2.0, 1.5, 3.0        # times the highest sibling's norm, growth of the norm, times the highest sibling's update


def early_warnings(runs: list[Sibling]) -> dict[str, str]:
    """A sentence for each young run with such a sign, by run id."""
    found = {}
    for job in runs:
        lines = _lines(job.run.metrics, int(FROM * job.config.train.images)) if job.is_on_its_way and not _is_old(job) else ()
        if len(lines) >= LEAST_LINES and (sentence := _judge(job, lines, runs)):
            found[job.run.run_id] = sentence
    return found


def _is_old(job: Sibling) -> bool:
    return job.share(job.run.status()["images_seen"]) > FROM


def _judge(job: Sibling, lines: tuple[dict, ...], runs: list[Sibling]) -> str:
    seen = lines[-1]["images_seen"]
    others = [those for one in runs if one.run.run_id != job.run.run_id and one.series == job.series
              and one.config.train.global_batch == job.config.train.global_batch
              and (those := _lines(one.run.metrics, seen)) and those[-1]["images_seen"] > 0.9 * seen]
    if len(others) < LEAST_SIBLINGS:
        return ""
    norm, before = _median(lines, "grad_norm", seen / 2, seen), _median(lines, "grad_norm", 0, seen / 2)
    highest = _highest(others, "grad_norm", seen)
    if norm and before and highest and norm > max(NORM * highest, GROWTH * before):
        return (f"the learning rate may be too high: the gradient norm has risen from {before:.3g} to {norm:.3g}, and the highest of "
                f"{len(others)} siblings has {highest:.3g} after as many images")
    for name in sorted({name for line in lines for name in line if name.startswith(UPDATE)}):
        moved, highest = _median(lines, name, seen / 2, seen), _highest(others, name, seen)
        if moved and highest and moved > MOVED * highest:
            return (f"the learning rate may be too high: a step moves the {name.removeprefix(UPDATE)} weights by {moved:.2g} of their RMS, "
                    f"{moved / highest:.1f} times the highest of {len(others)} siblings after as many images")
    return ""


def _highest(others: list[tuple[dict, ...]], name: str, seen: float) -> float | None:
    values = [value for lines in others if (value := _median(lines, name, seen / 2, seen))]
    return max(values) if len(values) >= LEAST_SIBLINGS else None


def _median(lines: tuple[dict, ...], name: str, after: float, to: float) -> float | None:
    """The median over the lines of (after, to] images; None without two of them."""
    values = [line[name] for line in lines if isinstance(line.get(name), (int, float)) and after < line["images_seen"] <= to]
    return statistics.median(values) if len(values) > 1 else None


def _lines(path: Path, images: int) -> tuple[dict, ...]:
    """The log lines up to so many images."""
    try:
        return _read(path, images, path.stat().st_mtime_ns)
    except OSError:
        return ()


@lru_cache(maxsize=256)                                                        # a finished run's lines never change
def _read(path: Path, images: int, changed: int) -> tuple[dict, ...]:
    """Stops there, as the whole file may be large; a damaged line is left out."""
    lines = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
                if line["images_seen"] > images:
                    break
            except (ValueError, KeyError, TypeError):
                continue
            lines.append(line)
    return tuple(lines)
