"""The learning rate over a run: warm-up, constant, unmasking."""

import pytest

from ditscale.config import resolve
from ditscale.training.schedule import due_images, learning_rate


def rates(values, objective, **train):
    config = resolve({**values, "objective": objective, "train": {**values["train"], "lr": 0.4, **train}}, "test")
    return [learning_rate(config, images_seen) for images_seen in range(0, 640, 64)]


def test_constant_without_warm_up(values):
    assert rates(values, {"name": "baseline"}) == [0.4] * 10


def test_warm_up_reaches_the_full_rate_at_its_last_image(values):
    assert rates(values, {"name": "baseline"}, warmup_images=256) == pytest.approx([0.1, 0.2, 0.3] + [0.4] * 7)


@pytest.mark.parametrize("options, last", [({}, 0.2), ({"unmasking_lr": 0.05}, 0.05)])
def test_the_unmasking_stage_has_its_own_rate(values, options, last):
    """It begins with the first batch that is seen whole: the one at which the mask ratio falls to 0."""
    objective = {"name": "masked", "unmasking_images": 192, **options}
    assert rates(values, objective) == [0.4] * 7 + [last] * 3
    config = resolve({**values, "objective": objective}, "test")
    assert [config.objective.ratio_at(images, 640) for images in range(0, 640, 64)] == [0.5] * 7 + [0.0] * 3


def test_masked_training_without_that_stage_is_constant(values):
    assert rates(values, {"name": "masked"}) == [0.4] * 10


def test_what_is_due(values):
    values["train"].update(images=1000, global_batch=64, checkpoint_every_images=100)
    seen = range(64, 1000, 64)                                                 # 15 steps
    saved = [step for step in seen if step // 100 != (step - 64) // 100 or step == 960]
    assert due_images(resolve(values, "x")) == saved
    values["evaluation"]["every_images"] = 300
    assert due_images(resolve(values, "x")) == [320, 640, 960]
    values["evaluation"] = None
    assert due_images(resolve(values, "x")) == []
