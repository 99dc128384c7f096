"""The learning rate as a function of images seen. No torch needed."""

from ditscale.config import RunConfig


def learning_rate(config: RunConfig, images_seen: int) -> float:
    """The rate for the batch that follows ``images_seen``: a linear warm-up, then constant, then the unmasking stage's.

    Only masked training has such a stage: its last ``objective.unmasking_images`` are seen whole, at a rate of their own.
    """
    train, objective = config.train, config.objective
    lr = train.lr
    if objective.name == "masked" and images_seen >= train.images - objective.unmasking_images:
        lr = objective.unmasking_lr or train.lr / 2
    return lr * min(1.0, (images_seen + train.global_batch) / max(train.warmup_images, 1))
