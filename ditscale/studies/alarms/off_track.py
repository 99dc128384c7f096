"""The off-track alarm: a job whose validation loss has left the band of the finished runs of its series (``scaling.collapse``).

The band is of finished runs that are trained as long for their size (tokens per parameter) as the job, or else for as many images. The loss at
the job's end is forecast from all finished runs of the series (``scaling.forecast``), and so is the floor. Only validation losses are used: they are
on the same draws for every run, while the training loss of a log interval has noise of its own many times that large.
"""

from functools import lru_cache

import numpy as np

from ditscale.errors import UserError, count
from ditscale.evaluation.metrics.table import LOSS
from ditscale.evaluation.passport import digest
from ditscale.rundir import read_lines
from ditscale.scaling.collapse import FROM, Band, Course, OffTrack, band, off_track
from ditscale.scaling.forecast import Forecast, Rungs, forecast
from ditscale.studies.alarms.sibling import Sibling

SAME_RATIO, SAME_LENGTH = 0.1, 0.01                                            # relative differences that count as equal


def off_track_warnings(runs: list[Sibling]) -> dict[str, str]:
    """A sentence for each job that is off track, by run id."""
    jobs, done = [one for one in runs if one.is_on_its_way], [one for one in runs if one.is_done]
    if not jobs or not done:                                                   # logs of a large study are read only where they are of use
        return {}
    courses: dict[tuple, list[tuple[Sibling, str, Course]]] = {}
    for one in done:
        courses.setdefault(one.series, []).extend((one, *pair) for pair in _courses(one).items())
    found = {}
    for job in (one for one in jobs if one.series in courses):
        for passport, course in _courses(job).items():
            siblings = [(one, own) for one, stated, own in courses[job.series] if stated == passport and own.share[-1] > 1 - SAME_LENGTH]
            if course.share[-1] >= FROM and (sentence := _judge(job, course, siblings)):
                found[job.run.run_id] = sentence
    return found


def _courses(one: Sibling) -> dict[str, Course]:
    """Its validation losses by passport, draws included."""
    lines: dict[str, dict[int, float]] = {}
    for line in read_lines(one.run.evals, "score"):
        if line.get("metric") == LOSS and line.get("images_seen") and "passport" in line:
            lines.setdefault(digest(line["passport"]), {})[line["images_seen"]] = line["score"]
    return {passport: Course.of(one.run.run_id, one.size, {one.share(images): loss for images, loss in losses.items()})
            for passport, losses in lines.items()}


def _judge(job: Sibling, course: Course, siblings: list[tuple[Sibling, Course]]) -> str:
    images = float(job.config.train.images)
    end = _forecast(_points(siblings), job.size, images, images / job.tokens_per_parameter)
    if end is None:
        return ""
    for alike in (_same_ratio, _same_length):
        rungs = [(one, own) for one, own in siblings if alike(one, job)]
        found = band([own for _, own in rungs], end.fit.law.coefficients().get("E", 0.0))
        if found:
            off = off_track(found, course, end.value, end.interval, end.freedom)
            return _sentence(off, found, [one for one, own in rungs if own in found.rungs]) if off else ""
    return ""


def _same_ratio(one: Sibling, job: Sibling) -> bool:
    return abs(one.tokens_per_parameter / job.tokens_per_parameter - 1) <= SAME_RATIO


def _same_length(one: Sibling, job: Sibling) -> bool:
    return abs(one.config.train.images / job.config.train.images - 1) <= SAME_LENGTH


def _points(siblings: list[tuple[Sibling, Course]]) -> tuple[tuple, ...]:
    """Each evaluation as (size, images, loss, run, images per token per parameter)."""
    lengths = [float(one.config.train.images) for one, _ in siblings]
    return tuple((course.size, share * images, loss, course.run, images / one.tokens_per_parameter)
                 for (one, course), images in zip(siblings, lengths, strict=True) for share, loss in zip(course.share.tolist(), course.loss.tolist()))


@lru_cache(maxsize=64)                                                         # ``status --watch`` asks again every few seconds
def _forecast(points: tuple[tuple, ...], size: float, images: float, unit: float) -> Forecast | None:
    """The loss at a job's end; None if the finished runs do not determine it."""
    if not points:
        return None
    try:
        return forecast(Rungs(*map(np.array, zip(*points))), size, images, unit=unit)
    except UserError:
        return None


def _sentence(off: OffTrack, found: Band, rungs: list[Sibling]) -> str:
    models = ", ".join(dict.fromkeys(str(one.config.model.name) for one in sorted(rungs, key=lambda one: one.size)))
    return (f"off track since {off.since:.0%} of training: at {off.share:.0%} the validation loss is {abs(off.ratio - 1):.1%} "
            f"{'above' if off.ratio > 1 else 'below'} the track of {count(len(rungs), 'finished run')} of {models} ({off.sigmas:.1f} sigma; "
            f"spread over {found.of})")
