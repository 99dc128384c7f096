"""Derived lengths: ``train.flops`` determines ``train.images``, and ``train.checkpoints`` the distance of checkpoints.

Both are keys only of a study's file. A run's config has the derived values, in images seen.
"""

import math

from ditscale.config import resolve
from ditscale.cost.runs import training_flops
from ditscale.errors import UserError
from ditscale.objectives import VARIANTS

FLOPS, CHECKPOINTS = "flops", "checkpoints"                                    # in the section train
DECIDES = {FLOPS: "images", CHECKPOINTS: "checkpoint_every_images"}


def derive(values: dict, source: str) -> dict:
    """The values of a run's config with ``train.flops`` and ``train.checkpoints`` replaced by images.

    ``train.flops`` is the training compute of the model's own variant; the run is as long as it allows, in whole batches.
    ``train.checkpoints`` is their number, evenly spaced, the last at the end.

    Raises:
        UserError: the key and the one that it determines are both given, it is not a number above zero, or it is too small for the shortest run.
    """
    train = values.get("train")
    if not isinstance(train, dict) or not DECIDES.keys() & train.keys():
        return values
    train = dict(train)
    flops, checkpoints = train.pop(FLOPS, None), train.pop(CHECKPOINTS, None)
    _check(source, train, FLOPS, flops)
    _check(source, train, CHECKPOINTS, checkpoints)
    values = {**values, "train": train}
    if flops is not None:
        train[DECIDES[FLOPS]] = _images(values, flops, source)
    if checkpoints is not None and isinstance(train.get("images"), (int, float)):  # otherwise resolve reports the error
        batch = train.get("global_batch", 256)
        train[DECIDES[CHECKPOINTS]] = max(1, math.ceil(train["images"] / checkpoints / batch)) * batch
    return values


def derived_sources(sources: dict) -> dict:
    """The sources of a config's values, with those of ``train.flops`` and ``train.checkpoints`` at the keys that they determine."""
    train = sources.get("train")
    if not isinstance(train, dict):
        return sources
    train = dict(train)
    for key, decided in DECIDES.items():
        if key in train:
            source = train.pop(key)
            train.setdefault(decided, source.deciding(f"train.{key}"))         # the other key has its own source if this one is null
    return {**sources, "train": train}


def _check(source: str, train: dict, key: str, value) -> None:
    if value is None:
        return
    if DECIDES[key] in train:
        raise UserError(f"{source}: train.{key} decides train.{DECIDES[key]}, and both are given; leave one out")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(f"{source}: train.{key} is {value!r}; give a number above 0")


def _images(values: dict, flops: float, source: str) -> int:
    """The largest number of images, in whole batches, with training of at most ``flops``."""
    def cost(batches: int) -> int:
        train = {"checkpoint_every_images": 1, **values["train"], "images": batches * batch}
        config = resolve({**values, "train": train, "evaluation": None}, source)
        return training_flops(config, config.train.images)

    batch = values["train"].get("global_batch", 256)
    objective = values.get("objective")
    variant = VARIANTS.get(str(objective.get("name"))) if isinstance(objective, dict) else None
    whole = variant.least_images(objective) if variant else 0
    low = max(1, math.ceil(whole / batch))                                     # a run must include its last stage
    least = cost(low)
    if least > flops:
        raise UserError(f"{source}: train.flops {flops:g} is too small for {low * batch} images, which take {least:.3g}")
    high = max(low + 1, int(flops // (least // low)) + 1)
    while cost(high) <= flops:                                                 # a mask schedule may make later steps cheaper
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= flops else (low, middle)
    return low * batch
