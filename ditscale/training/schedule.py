"""Schedules as functions of images seen: learning rate, checkpoints, evaluations. No torch needed."""

import math

from ditscale.config import RunConfig
from ditscale.errors import UserError
from ditscale.training.parent import start_images

MOST_CHECKPOINTS = 100_000


def reached(images_seen: int, every: int, batch: int) -> bool:
    """Whether the step that ends at ``images_seen`` reached or passed a multiple of ``every``."""
    return (images_seen - batch) // every != images_seen // every


def due_images(config: RunConfig) -> list[int]:
    """Images seen at the checkpoints of an undisturbed run that will be scored; none without a section ``evaluation``.

    Raises:
        UserError: there are implausibly many.
    """
    if config.evaluation is None:
        return []
    saved = _ends(config, "train.checkpoint_every_images", config.train.checkpoint_every_images)
    return sorted(seen for seen in saved if is_due(config, seen))


def validated_images(config: RunConfig) -> list[int]:
    """Images seen at which an undisturbed run computes its validation loss: at each checkpoint, and in between.

    Raises:
        UserError: as ``due_images``.
    """
    if config.evaluation is None or config.evaluation.validation is None:
        return []
    between = config.evaluation.validation.every_images
    found = _ends(config, "train.checkpoint_every_images", config.train.checkpoint_every_images)
    return sorted(found | (_ends(config, "evaluation.validation.every_images", between) if between else set()))


def _ends(config: RunConfig, key: str, every: int) -> set[int]:
    """Images seen after each step of the run's own that reaches a multiple of ``every``, and after the last step."""
    train = config.train
    if train.images // every > MOST_CHECKPOINTS:
        raise UserError(f"train.images {train.images} with {key} {every} makes {train.images // every} checkpoints; at most "
                        f"{MOST_CHECKPOINTS} can be scored")
    last = train.images // train.global_batch * train.global_batch
    ends = {last} | {-(-mark // train.global_batch) * train.global_batch for mark in range(every, last + 1, every)}
    return {end for end in ends if end > start_images(config)}


def is_due(config: RunConfig, images_seen: int) -> bool:
    """Whether a checkpoint will be scored: every ``evaluation.every_images`` (default: all that count), and the last."""
    if config.evaluation is None or not counts(config, images_seen):
        return False
    every, train = config.evaluation.every_images, config.train
    return not every or reached(images_seen, every, train.global_batch) or images_seen + train.global_batch > train.images


def counts(config: RunConfig, images_seen: int) -> bool:
    """Whether a checkpoint is a point of this run's curve: not one of its parent, and not one saved only for a branch to start from."""
    is_for_branch = images_seen in config.resources.branch_images and images_seen + config.train.global_batch <= config.train.images
    is_of_parent = config.parent is not None and images_seen <= config.parent.images
    return not is_of_parent and not (is_for_branch and not reached(images_seen, config.train.checkpoint_every_images, config.train.global_batch))


def is_saved(config: RunConfig, images_seen: int) -> bool:
    """Whether an undisturbed run saves a checkpoint after the step that ends at ``images_seen``."""
    train = config.train
    return (reached(images_seen, train.checkpoint_every_images, train.global_batch) or images_seen in config.resources.branch_images
            or images_seen + train.global_batch > train.images)


def is_logged(config: RunConfig, images_seen: int) -> bool:
    """Whether an undisturbed run writes a log line after the step that ends at ``images_seen``; one that is stopped there also does."""
    return reached(images_seen, config.resources.log_every_images, config.train.global_batch) or is_saved(config, images_seen)


def learning_rate(config: RunConfig, images_seen: int) -> float:
    """The rate for the batch that follows ``images_seen``: a linear warm-up, then constant, cosine, or constant with a decay at the end.

    A variant may have a stage with a separate constant rate, such as masked training in its last ``unmasking_images``.
    """
    train = config.train
    lr, stage_lr = train.lr, config.objective.stage_lr(train.lr, images_seen, train.images)
    if train.lr_schedule == "cosine":
        share = max(0, images_seen - train.warmup_images) / max(1, train.images - train.warmup_images)
        lr = train.lr_end + (train.lr - train.lr_end) * (1 + math.cos(math.pi * share)) / 2
    if train.lr_schedule == "wsd":
        decaying = train.images * train.lr_decay_share
        share = max(0.0, images_seen - (train.images - decaying)) / decaying
        lr = train.lr_end + (train.lr - train.lr_end) * (1 - (share if train.lr_decay == "linear" else math.sqrt(share)))
    lr = lr if stage_lr is None else stage_lr
    return lr * min(1.0, (images_seen + train.global_batch) / max(train.warmup_images, 1))
