"""Implements ``ditscale evaluate``: scores a run's checkpoints with each combination of settings, or existing images."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from ditscale.config import EvaluationConfig, MeasureConfig, ValidationConfig
from ditscale.errors import UserError
from ditscale.evaluation.evaluate import Evaluator
from ditscale.evaluation.images import ImageSet, open_images
from ditscale.evaluation.passport import Passport
from ditscale.evaluation.sampling.guide import check_other, find_guide
from ditscale.evaluation.scoring import Scorer
from ditscale.evaluation.settings import placed, read, sweep
from ditscale.ranks import World, join_ranks
from ditscale.rundir import RunDir, append_line
from ditscale.section import validate
from ditscale.training.checkpoint.checkpoint import images_of, list_checkpoints
from ditscale.training.checkpoint.import_weights import images_known
from ditscale.training.checkpoint.weights import is_passed_over, pick_checkpoint, run_config
from ditscale.writing import check_writable, make_parents, writing


def evaluate_run(run: RunDir, overrides: tuple[str, ...], images: int | None, whole: bool) -> list[dict]:
    """Scores checkpoints of a run; returns their lines on rank 0. Existing lines are reused.

    Raises:
        UserError: a setting or checkpoint does not exist, or settings contradict each other.
    """
    configs = sweep(*placed(run_config(run), overrides))
    pick_checkpoint(run, images)                                               # an error if there is none
    for config in configs:
        if config.evaluation.guide:
            guide = find_guide(config.evaluation.guide, config, config.evaluation.average)
            for checkpoint in _chosen(run, images, whole, config.evaluation.average):
                check_other(guide, checkpoint)
    scorers: dict[tuple, Scorer] = {}
    lines = []
    with join_ranks() as world:
        for config in configs:
            settings = config.evaluation
            measured = settings.metric, settings.also, settings.extractor_path, settings.reference_path
            evaluator = Evaluator(config, world, scorers.get(measured))
            scorers[measured] = evaluator.scorer
            # As seen by rank 0: a run in training may save another.
            for checkpoint in world.agree(_chosen(run, images, whole, settings.average) if world.is_main else None):
                seen = images_known(config, checkpoint)
                if world.agree(evaluator.line(run, seen)) is None:
                    evaluator.evaluate(run, checkpoint)
                lines.append(evaluator.line(run, seen))
    return lines if world.is_main else []


def _chosen(run: RunDir, images: int | None, whole: bool, average: str) -> list[Path]:
    """The checkpoints to score, without those that are damaged.

    Raises:
        UserError: none is left.
    """
    if not whole:
        return [pick_checkpoint(run, images, average)]
    kept = [checkpoint for checkpoint in list_checkpoints(run) if not is_passed_over(checkpoint, average)]
    if not kept:
        raise UserError(f"{run.path} has no checkpoint with an undamaged {average}")
    return kept


def validate_run(target, data: str | None, count: int | None, seed: int | None, images: int | None, whole: bool) -> list[dict]:
    """The validation loss of a run's checkpoints; returns lines as ``evaluate_run`` does.

    Args:
        data, count, seed: override ``path``, ``images`` and ``seed`` of the run's section ``evaluation.validation``.

    Raises:
        UserError: there is no held-out file, it does not fit, or the checkpoint does not exist.
    """
    from ditscale.evaluation.validation import Validation

    run, lines = RunDir(target), []
    config = run_config(run)
    if config.imported and config.evaluation is None:
        sampling = config.imported.sampling                                    # of which the average counts
        config = config.model_copy(update={"evaluation": EvaluationConfig.model_construct(**dict(sampling), validation=None)})
    if config.evaluation is None:
        raise UserError(f"{run.record} has no section evaluation, which chooses the weight average; add one to its spec")
    stated = config.evaluation.validation.model_dump() if config.evaluation.validation else {}
    stated |= {key: value for key, value in (("path", data), ("images", count), ("seed", seed)) if value is not None}
    if "path" not in stated:
        raise UserError("no held-out images: give --data HELDOUT.beton; the run's config has no evaluation.validation.path")
    settings = validate(ValidationConfig, stated, "validate")
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"validation": settings})})
    pick_checkpoint(run, images)
    with join_ranks() as world:
        validation = Validation(config, world)
        for checkpoint in world.agree(_chosen(run, images, whole, config.evaluation.average) if world.is_main else None):
            seen = images_known(config, checkpoint)
            if world.agree(validation.line(run, seen)) is None:
                validation.evaluate(run, checkpoint)
            if line := validation.line(run, seen):
                lines.append(line)
    return lines if world.is_main else []


def evaluate_images(target: Path, overrides: tuple[str, ...], out) -> list[dict]:
    """Scores images and adds a line to ``out``; returns the line on rank 0.

    Raises:
        UserError: there are no images, or the settings do not fit.
    """
    if not target.exists():
        raise UserError(f"{target}: no such run, folder or file")
    if (target / "state.json").exists():
        raise UserError(f"{target} is a checkpoint; give its run: ditscale evaluate {target.parents[1]} --images {images_of(target)}")
    values = {key: value for key, (value, *_) in read(overrides).items()}
    settings = validate(MeasureConfig, values, "evaluate")
    out, started = Path(out) if out else target.with_name(f"{target.name}.evals.jsonl"), time.perf_counter()
    with join_ranks() as world:
        if world.is_main:
            check_writable(out)                                                # before the work, not after it
        scorer = Scorer(settings, world)
        found = open_images(target, channels=max(scorer.extractor.channels))
        if found.count < 2:
            raise UserError(f"{target}: has 1 image; a score needs a covariance, so at least 2 images, preferably thousands")
        scores = scorer.score(_mine(found, scorer.extractor.batch, world), found.count)
    if not world.is_main:
        return []
    passport = Passport(**scorer.passport(found.count), **_origin(target))
    seconds = time.perf_counter() - started
    line = {"images_seen": None, "metric": settings.metric, "score": scores.score, "floor": None, "values": scores.values,
            "error": scores.error, "bias": scores.bias, "passport_id": passport.digest(), "passport": asdict(passport), "images": str(target),
            "images_sha256": found.sha256, "seconds": seconds, "accelerator_hours": seconds * world.size / 3600}
    if warning := scorer.warning(found.count, scores):
        print(f"warning: {warning}", file=sys.stderr)
    make_parents(out)
    with writing(out):
        append_line(out, line)
    return [line]


def _mine(found: ImageSet, size: int, world: World):
    """This rank's batches of the images, every ``world.size``-th, as (positions, images)."""
    first = 0
    for number, images in enumerate(found.batches(size)):
        if number % world.size == world.rank:
            yield torch.arange(first, first + len(images)), torch.from_numpy(images)
        first += len(images)


def _origin(target: Path) -> dict:
    """The record by ``ditscale sample`` of how the images were made; empty for images from elsewhere."""
    note = target / "sample.json" if target.is_dir() else target.with_name(f"{target.name}.json")
    try:
        made = json.loads(note.read_text())
        return {**made["passport"], "seed": made["seed"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
