"""Searches the guidance with the lowest score: few samples along a bracket of scales, then all samples at the best three.

Every candidate gets the same noise and labels (one seed), so that differences between scales are sharper than the scores. The score is taken to have one
minimum in the scale; a golden-section search on the grid then needs about 8 of 25 points.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

from ditscale.config import EvaluationConfig, RunConfig
from ditscale.errors import UserError
from ditscale.evaluation.guidance_options import BEST, GuidanceSearch
from ditscale.evaluation.passport import SEED, Passport, digest
from ditscale.rundir import EVALUATION, RunDir, read_lines
from ditscale.scaling.golden import descend
from ditscale.training.checkpoint.checkpoint import images_of
from ditscale.training.checkpoint.weights import pick_checkpoint

FREE = frozenset({"labels", "batch", "vae", "rounding", "average"})            # sampling settings that a searched scale holds for
Interval = tuple[float, float] | None
Score = Callable[[float, Interval, int], float]                                # (scale, interval, samples) -> score, lower is better


@dataclass(frozen=True)
class Tried:
    """A candidate with the score of so many samples of the search's seed."""

    scale: float
    interval: Interval
    samples: int
    score: float


@dataclass(frozen=True)
class Choice:
    """The chosen guidance. ``at_end``: it is the end of the range of scales, beyond which there may be a better one."""

    scale: float
    interval: Interval
    tried: tuple[Tried, ...] = ()
    at_end: bool = False

    @property
    def warning(self) -> str:
        """What to change if the search ended at an end of its range; "" if it did not."""
        return f"the best guidance scale {self.scale:g} is the end of evaluation.guidance_search.scales: widen them" if self.at_end else ""

    def record(self) -> dict:
        """For a line of evals.jsonl."""
        return {"scale": self.scale, "interval": self.interval, "at_end": self.at_end, "tried": [asdict(one) for one in self.tried]}


def choose(search: GuidanceSearch, interval: Interval, samples: int, score: Score) -> Choice:
    """Searches the scale at each interval, ``interval`` and those of the search; all ``samples`` are used for the best three.

    Args:
        score: called once for each candidate and number of samples.
    """
    grid, few = search.grid(), search.first_samples(samples)
    tried: dict[tuple[float, Interval, int], Tried] = {}

    def ask(scale: float, where: Interval, count: int) -> float:
        key = scale, None if scale == 1 else where, count                      # without guidance, the interval has no effect
        if key not in tried:
            found = score(scale, where, count)
            tried[key] = Tried(scale, key[1], count, math.inf if math.isnan(found) else found)
        return tried[key].score

    def ask_point(where: Interval, i: int) -> float:
        return ask(grid[i], where, few)

    for where in dict.fromkeys((interval, *search.intervals)):
        descend(len(grid), partial(ask_point, where))
    finalists = sorted(tried.values(), key=lambda one: one.score)[:BEST]
    for one in finalists:
        ask(one.scale, one.interval, samples)
    best = min((one for one in tried.values() if one.samples == samples), key=lambda one: one.score)
    ends = {grid[-1], *([grid[0]] if grid[0] != 1 else [])}                    # a scale of 1, no guidance, is no arbitrary end
    return Choice(best.scale, best.interval, tuple(tried.values()), best.scale in ends)


def selected_on(settings: EvaluationConfig) -> str:
    """The passport's field: seed, samples at first and in all, scales with the number of points, intervals; as sorted JSON. "" without a search."""
    if settings.guidance is None:
        return ""
    search = settings.search
    return json.dumps({"intervals": list(map(interval_words, dict.fromkeys((settings.guidance_interval, *search.intervals)))),
                       "samples": [search.first_samples(settings.samples), settings.samples],
                       "scales": [*search.scales, search.points], "seed": search.seed}, sort_keys=True)


def interval_words(interval: Interval) -> str:
    """As a passport has it: ``all``, or ``0.1..0.7``."""
    return "all" if interval is None else f"{interval[0]:g}..{interval[1]:g}"


def chosen_before(run: RunDir, images_seen: int | None, passport: Passport) -> Choice | None:
    """What the same search chose for this checkpoint, for samples of another seed; None if it was not made."""
    wanted = digest(asdict(passport), without=(SEED,))
    for line in reversed(read_lines(run.evals, *EVALUATION)):
        found = line.get("guidance_search")
        if found and line.get("images_seen") == images_seen and digest(line["passport"], without=(SEED,)) == wanted:
            return Choice(found["scale"], tuple(found["interval"]) if found["interval"] else None, (), found["at_end"])
    return None


def resolved(run: RunDir, config: RunConfig, checkpoint: int | None, changes: dict) -> dict:
    """Changes of a run's sampling with what its evaluations chose in place of ``guidance: best``, if they or the run's own section ask for it.

    Args:
        checkpoint: at this number of images seen; None: the newest.

    Raises:
        UserError: no evaluation of the checkpoint searched the guidance or several did in different ways, a scale is given too, or a change of
            the sampling for which nothing was searched.
    """
    kept = {key: value for key, value in changes.items() if key not in ("guidance", "guidance_search")}
    stated = config.evaluation.guidance if config.evaluation else None
    if changes.get("guidance", stated) != "best" or "guidance_scale" in changes:
        if changes.get("guidance") is not None:
            why = f"contradicts guidance_scale={changes.get('guidance_scale')}; give one of them"
            raise UserError(f"guidance={changes['guidance']} "
                            + (why if "guidance_scale" in changes else "is unknown; guidance=best takes what an evaluation chose"))
        return kept
    images = images_of(pick_checkpoint(run, checkpoint, changes.get("average", config.evaluation.average if config.evaluation else "ema")))
    found = [line for line in read_lines(run.evals, *EVALUATION) if line.get("guidance_search") and line.get("images_seen") == images]
    if not found:
        raise UserError(f"no evaluation of {run.path} at {images} images has searched its guidance; `ditscale evaluate {run.path} guidance=best "
                        f"--images {images}` does, or give guidance_scale")
    kinds = {digest(line["passport"], without=(SEED,)) for line in found}
    if len(kinds) > 1:
        chosen = ", ".join(f"{line['guidance_search']['scale']:g} ({line['metric']}, {line['passport'].get('nfe')} evaluations)" for line in found)
        raise UserError(f"guidance=best: {run.path} at {images} images was searched in {len(kinds)} ways, which chose {chosen}; give guidance_scale")
    if others := sorted(set(kept) - FREE):
        raise UserError(f"guidance=best was searched with the evaluation's own sampling, and {others[0]} changes it; leave it out, or give guidance_scale")
    best = found[-1]["guidance_search"]
    return {**kept, "guidance_scale": best["scale"], "guidance_interval": best["interval"]}
