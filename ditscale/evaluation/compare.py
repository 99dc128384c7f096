"""Compares two scores: the settings that differ, and whether the gap is more than noise."""

import csv
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ditscale.config import resolve
from ditscale.cost.runs import training_flops
from ditscale.errors import UserError, did_you_mean
from ditscale.evaluation.metrics.table import LOSS
from ditscale.evaluation.passport import MEASURED, SEED, differences, digest
from ditscale.rundir import EVALUATION, RunDir, read_lines
from ditscale.scaling.curves import Runs
from ditscale.scaling.differences import INCONCLUSIVE, MIN_SEEDS, REAL, Difference, compare_scores
from ditscale.scaling.speedup import effective_speedup

TRAINING_NOISE = 0.013                                                         # FID: variation between training seeds, FID Lottery
SURE = 1.96                                                                    # standard errors of a 95 % interval


@dataclass(frozen=True)
class Side:
    """One side: the repetitions of one score, or a published number."""

    label: str
    metric: str
    scores: list[float]                                                        # one per sample seed
    passport: dict
    errors: list[float] = field(default_factory=list)                          # bootstrap standard errors, if all scores have one
    evals: Path | None = None                                                  # the file of evaluations
    images_seen: int | None = None
    known_flops: float | None = None                                           # training FLOPs up to there, where no run directory has them

    @property
    def train_flops(self) -> float | None:
        """Training FLOPs of the run up to this checkpoint; None for others' weights and published numbers."""
        if self.known_flops is not None:
            return self.known_flops
        run = RunDir(self.evals.parent) if self.evals else None
        if self.images_seen is None or run is None or not run.record.is_file():
            return None
        config = resolve(run.read_record()["config"], str(run.record))
        return None if config.imported else training_flops(config, self.images_seen)


@dataclass(frozen=True)
class PassportComparison:
    """The comparison of two sides.

    Attributes:
        differing: (passport field, A's value, B's value) if both are known.
        unstated: fields that only one side states.
        difference: None if the two numbers were not measured in the same way.
    """

    differing: list[tuple[str, object, object]]
    unstated: list[str]
    difference: Difference | None


def read_side(text: str, conditions: dict[str, str] | None = None) -> Side:
    """A side from the user's argument: a run's directory or an evals.jsonl, followed by ``@IMAGES`` for one checkpoint (default:
    the newest), or ``published.csv:LINE`` with the number of a line, the header being 1, or the model's name.

    ``conditions`` keep the evaluations with these values in their passport, as text.

    Raises:
        UserError: nothing is found, or there are evaluations of several kinds.
    """
    if ".csv:" in text:
        return _published(*text.rsplit(":", 1))
    name, _, images = text.partition("@")
    path = RunDir(name).evals if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise UserError(f"{text}: no evaluations found; give a run's directory, an evals.jsonl, or a published.csv:LINE")
    with open(path, "rb") as file:
        start = file.read(8)
        if start and (start[:1] != b"{" or b"\0" in start):                    # a .safetensors may start with any byte
            raise UserError(f"{name}: not a file of evaluations; images and weights have none before `ditscale evaluate {name} ...`, which writes "
                            f"them to {name}.evals.jsonl; give that file")
    return replace(side_at(text, str(path), read_lines(path, *EVALUATION), images, conditions or {}), evals=path)


def side_at(label: str, path: str, lines: list[dict], images: str, conditions: dict[str, str], flops: dict[int, float] | None = None) -> Side:
    """A side from lines as in evals.jsonl.

    Args:
        path: where they are from, for messages. images: the checkpoint, "" for the newest.
        flops: of training, by images seen; where no run directory has them.

    Raises:
        UserError: there is none, or there are evaluations of several kinds.
    """
    found = _side(label, path, _at(path, lines, images, conditions.get("metric") == LOSS), conditions)
    return replace(found, known_flops=flops[found.images_seen]) if flops else found


def _at(path: str, lines: list[dict], images: str, wants_loss: bool) -> list[dict]:
    """The evaluations at a checkpoint: scores, or with ``wants_loss`` also validation losses."""
    if not wants_loss:
        lines = [line for line in lines if line["metric"] != LOSS] or lines
    seen = sorted({line.get("images_seen") for line in lines}, key=lambda value: (value is not None, value))
    if not lines:
        raise UserError(f"{path}: has no evaluation yet")
    if images and (not images.isdigit() or int(images) not in seen):
        raise UserError(f"{path}: no evaluation at {images} images; there are {', '.join(map(str, seen))}")
    wanted = int(images) if images else seen[-1]
    return [line for line in lines if line.get("images_seen") == wanted]


def _side(label: str, path: str, lines: list[dict], conditions: dict[str, str]) -> Side:
    """The repetitions among the lines. Raises UserError if there are evaluations of several kinds."""
    for key, value in conditions.items():
        known = lines[0]["passport"]
        if key not in known:
            raise UserError(f"--where {key}={value}: no such passport field{did_you_mean(key, known) or '.'} "
                            f"Fields: {', '.join(known)}")
        kept = [line for line in lines if str(line["passport"].get(key)) == value]
        if not kept:
            found = sorted({str(line["passport"].get(key)) for line in lines})
            raise UserError(f"{path}: no evaluation with {key}={value}; there is {', '.join(found)}")
        lines = kept
    kinds = {digest(line["passport"], without=(SEED,)): line["passport"] for line in lines}
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        what = "; ".join(f"{name} {a} or {b}" for name, a, b in differences(first, second))
        raise UserError(f"{path}: {len(kinds)} kinds of evaluation at {lines[0].get('images_seen')} images, with {what}; choose one with "
                        "--where FIELD=VALUE")
    newest = {line["passport"].get(SEED): line for line in lines}              # a repeated line replaces the earlier one
    errors = [line["error"] for line in newest.values() if line.get("error") is not None]
    return Side(label, lines[0]["metric"], [line["score"] for line in newest.values()], lines[0]["passport"],
                errors if len(errors) == len(newest) else [], images_seen=lines[0].get("images_seen"))


def _published(path: str, which: str) -> Side:
    """A row of a table with the columns model, fid, cfg_scale, nfe, ..."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    numbered = dict(enumerate(rows, 2))
    found = [numbered[int(which)]] if which.isdigit() and int(which) in numbered else \
        [row for row in rows if row.get("model") == which]
    if len(found) != 1:
        lines = ", ".join(str(number) for number, row in numbered.items() if row.get("model") == which)
        raise UserError(f"{path}:{which}: " + (f"{len(found)} rows have that model; give one of the lines {lines}" if found else
                                               f"no such line or model; lines are 2 to {len(rows) + 1}"))
    row = found[0]
    if not row.get("fid"):
        raise UserError(f"{path}:{which}: this row has no FID")
    passport = {"metric": "fid", "nfe": int(row["nfe"]) if row.get("nfe") else None, "guidance_scale": _scale(row.get("cfg_scale"))}
    return Side(f"{row['model']} ({row.get('source', path)})", "fid", [float(row["fid"])], passport)


def _scale(text: str | None) -> float | None:
    """A published guidance scale; "none" is 1, and anything that is not a number is unknown."""
    if text == "none":
        return 1.0
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def compare(a: Side, b: Side) -> PassportComparison:
    """Compares B with A."""
    pairs = differences(a.passport, b.passport)
    differing = [pair for pair in pairs if pair[1] is not None and pair[2] is not None]
    unstated = [name for name, of_a, of_b in pairs if of_a is None or of_b is None]
    measured_alike = not any(name in MEASURED for name, _, _ in differing)
    return PassportComparison(differing, unstated, _difference(a, b) if measured_alike else None)


def _difference(a: Side, b: Side) -> Difference:
    """The difference from repetitions if there are enough, else from the bootstrap, else INCONCLUSIVE."""
    few = min(len(a.scores), len(b.scores)) < MIN_SEEDS
    if not few or min(a.scores + b.scores) <= 0:
        return compare_scores(b.scores, a.scores)
    change = _mean(b.scores) / _mean(a.scores) - 1
    if a.errors and b.errors:
        spread = math.hypot(_relative(a), _relative(b)) * (1 + change)
        reason = f"bootstrap over the images: {change:+.1%} with a standard error of {spread:.1%}, for one training run each"
        return Difference(change, None, REAL if abs(change) > SURE * spread else INCONCLUSIVE, reason)
    if a.metric == LOSS:
        return Difference(change, None, INCONCLUSIVE, f"fewer than {MIN_SEEDS} values on a side: the spread of the loss over training seeds is not known")
    usual = SURE * TRAINING_NOISE * math.sqrt(2)
    side = "above" if abs(change) > usual else "within"
    return Difference(change, None, INCONCLUSIVE, f"fewer than {MIN_SEEDS} sets of samples on a side and no bootstrap error; the gap "
                      f"is {side} {usual:.1%}, the usual difference in FID between two trainings of one model; other scores may have another")


def _mean(scores: list[float]) -> float:
    return sum(scores) / len(scores)


def _relative(side: Side) -> float:
    """Standard error of the mean score, relative to it."""
    return math.sqrt(sum(error**2 for error in side.errors)) / len(side.errors) / _mean(side.scores)


def speedup(a: Side, b: Side, found: PassportComparison, floor: float | None, exponent: float | None) -> str:
    """The effective speed-up of B over A (``scaling.speedup``) as a line of text; one run each, so it has no interval.

    Raises:
        UserError: a side is not a validation loss, the two are not comparable, or the law's values are missing or impossible.
    """
    if floor is None or exponent is None:
        raise UserError("give both --floor E and --exponent ALPHA of the law E + A C^-ALPHA of the loss, or neither")
    for side in (a, b):
        if side.metric != LOSS:
            raise UserError(f"{side.label} has a {side.metric}; --floor and --exponent are for validation losses, which --where metric={LOSS} chooses")
    if found.difference is None:
        raise UserError("the two losses were measured differently, so there is no effective speed-up; see the fields without --floor")
    one, other = (Runs(np.ones(1), np.array([_mean(side.scores)]), np.array([side.label])) for side in (a, b))
    value, pinned = effective_speedup(other, one, floor=floor, exponent=exponent).value, f"E = {floor:g} and alpha = {exponent:g} pinned"
    flops_a, flops_b = a.train_flops, b.train_flops
    if flops_a is None or flops_b is None:
        return (f"effective speed-up {value:.3g}, if both took the same compute, which is not known here: A would need {value:.3g} times that to reach "
                f"the loss of B ({pinned}; one run each, so no interval)")
    needed = value * flops_a
    return (f"effective speed-up {needed / flops_b:.3g}: to reach the loss of B, A would need {needed:.3g} training FLOPs, and B took "
            f"{flops_b:.3g} ({pinned}; A took {flops_a:.3g}; one run each, so no interval)")


def describe(a: Side, b: Side, found: PassportComparison) -> list[str]:
    """The comparison in lines of text."""
    lines = [f"{name}: {side.label}: {side.metric} {_mean(side.scores):.4g}"
             + (f" (mean of {len(side.scores)} sets of samples)" if len(side.scores) > 1 else "")
             for name, side in (("A", a), ("B", b))]
    lines += [f"differs: {name}: {of_a} in A, {of_b} in B" for name, of_a, of_b in found.differing]
    if found.unstated:
        lines.append(f"stated on one side only: {', '.join(found.unstated)}")
    if not found.differing and not found.unstated:
        lines.append("the passports agree")
    if found.difference is None:
        names = ", ".join(name for name, _, _ in found.differing if name in MEASURED)
        return [*lines, f"NOT COMPARABLE: the numbers were measured differently ({names})"]
    change, interval = found.difference.change, found.difference.interval
    sure = f", 95 % interval {interval.low:+.1%} to {interval.high:+.1%}" if interval else ""
    lines.append(f"B is {change:+.1%} against A{sure}: {found.difference.verdict} ({found.difference.reason})")
    if found.difference.verdict == REAL:
        lines.append("This compares these two sets of weights: it includes the noise of sampling, not that of repeated training.")
    return lines
