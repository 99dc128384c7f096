"""The parent of a run that branches off another: where it starts, and what must be equal up to there. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ditscale.errors import UserError
from ditscale.section import Count, Section

if TYPE_CHECKING:
    from ditscale.config import RunConfig

LOOKS = 64                                                                     # images seen at which schedules are compared


class Parent(Section):
    """A run starts from the training state of ``run``, of the same study, at ``images`` images seen."""

    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")                  # its run id
    images: Count = Field(gt=0)


def start_images(config: RunConfig) -> int:
    """Images seen at which the run's own training starts: its branch point, or 0."""
    return config.parent.images if config.parent else 0


def check_parent(config: RunConfig) -> None:
    """Raises UserError for a branch that does not start at a whole batch before its decay."""
    parent, train = config.parent, config.train
    if parent is None:
        return
    if train.lr_schedule != "wsd":
        raise UserError(f"parent is for train.lr_schedule wsd, which is constant up to the branch point; it is {train.lr_schedule}")
    decay_starts = train.images * (1 - train.lr_decay_share)
    if parent.images > decay_starts + 0.5 or parent.images % train.global_batch:
        raise UserError(f"parent.images {parent.images} must be a multiple of train.global_batch {train.global_batch}, and at most {decay_starts:.0f}, "
                        "where the decay starts")


def check_equal_before(trunk: RunConfig, branch: RunConfig) -> None:
    """Refuses a branch whose variant would have trained otherwise than its trunk before the branch point.

    Raises:
        UserError: a schedule of the variant depends on the length of the run there; the message has the option, its value and what would work.
    """
    end, batch = branch.parent.images, branch.train.global_batch
    objective, steps = branch.objective, branch.parent.images // branch.train.global_batch
    for step in sorted({*range(0, steps, max(1, steps // LOOKS)), steps - 1}):
        schedules = [objective.schedules(step * batch, config.train.images) for config in (trunk, branch)]
        if differing := [name for name, value in schedules[0].items() if value != schedules[1][name]]:
            why = objective.tied_to_length(branch.train.images - end) or [f"its {differing[0]} depends on train.images"]
            raise UserError(f"train.branches: length {branch.train.images} cannot branch off at {end} images with objective.name {objective.name}: "
                            f"{'; '.join(why)}")
