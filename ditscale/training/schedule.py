"""The learning rate as a function of images seen. No torch needed."""

import math

from ditscale.config import RunConfig


def learning_rate(config: RunConfig, images_seen: int) -> float:
    """The rate for the batch that follows ``images_seen``: a linear warm-up, then constant or cosine.

    Masked training may have a stage of its own: its last ``objective.unmasking_images`` are seen whole, at a constant rate.
    """
    train, objective = config.train, config.objective
    lr = train.lr
    if train.lr_schedule == "cosine":
        share = max(0, images_seen - train.warmup_images) / max(1, train.images - train.warmup_images)
        lr = train.lr_end + (train.lr - train.lr_end) * (1 + math.cos(math.pi * share)) / 2
    if objective.name == "masked" and images_seen >= train.images - objective.unmasking_images:
        lr = objective.unmasking_lr or train.lr / 2
    return lr * min(1.0, (images_seen + train.global_batch) / max(train.warmup_images, 1))
