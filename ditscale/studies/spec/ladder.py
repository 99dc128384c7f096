"""A ladder: smaller models trained at several lengths, to predict a larger one before it starts (``ditscale predict``).

Lengths are in tokens per parameter, so that every model is trained equally long for its size: ``lengths`` times ``tokens_per_parameter``
for the rungs, ``tokens_per_parameter`` for the target. Parameters are all those of a plain DiT, including adaLN's, as papers count them;
variants of a model get the same lengths. The two phases are ``rungs`` and ``target``: the second starts when the first is done, and
the prediction belongs between them (``ditscale launch SPEC --phase rungs``, ``ditscale predict SPEC``, ``ditscale launch SPEC``).
"""

import math
from dataclasses import dataclass

from pydantic import Field, model_validator

from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.models.macs import plain_card
from ditscale.models.sizes import parse_model_name
from ditscale.objectives import BASELINE
from ditscale.objectives.variant import backbone_of
from ditscale.scaling.tokens import images_for
from ditscale.section import Section
from ditscale.studies.spec.budgets import Positive

KEYS = ("model.name", "train.images")                                          # set together by a ladder


class Ladder(Section):
    """Three rungs or more, in any order, and the target."""

    rungs: list[str] = Field(min_length=3)
    target: str
    tokens_per_parameter: Positive
    lengths: list[Positive] = Field([0.5, 1.0, 2.0, 4.0], min_length=1)

    @model_validator(mode="after")
    def _check_models(self):
        names = [str(parse_model_name(name)) for name in (*self.rungs, self.target)]
        if len(set(names)) < len(names):
            raise UserError(f"ladder.rungs and ladder.target have a model twice: {', '.join(names)}")
        if len(set(self.lengths)) < len(self.lengths):
            raise UserError(f"ladder.lengths has an entry twice: {', '.join(map(str, self.lengths))}")
        return self

    @property
    def phases(self) -> dict[str, dict]:
        """The ladder's phases, if the study names none."""
        return {"rungs": {"model.name": list(self.rungs)}, "target": {}}


@dataclass(frozen=True)
class Step:
    """One run of a ladder."""

    model: str
    images: int


def steps(ladder: Ladder, config: dict, source: str) -> list[Step]:
    """The rungs' runs, then the target's, at whole batches.

    Raises:
        UserError: the config is wrong, or a rung is not smaller than the target.
    """
    batch = config.get("train", {}).get("global_batch", 256)
    train = {"images": batch, "global_batch": batch, "checkpoint_every_images": batch}
    values = {**config, "train": train, "objective": {"name": BASELINE}, "evaluation": None, "resources": {}}
    cards = {name: plain_card(backbone_of(resolve({**values, "model": {**config.get("model", {}), "name": name}}, source)))
             for name in (*ladder.rungs, ladder.target)}
    for rung in ladder.rungs:
        if cards[rung].flops >= cards[ladder.target].flops:
            raise UserError(f"{source}: ladder.rungs: {rung} takes {cards[rung].flops:.3g} FLOPs per image, the target {ladder.target} "
                            f"{cards[ladder.target].flops:.3g}; a rung must be smaller than the target")

    def step(name: str, length: float) -> Step:
        images = images_for(ladder.tokens_per_parameter * length, cards[name].tokens, cards[name].parameters)
        return Step(name, max(1, math.ceil(images / batch)) * batch)

    return [*(step(name, length) for name in ladder.rungs for length in ladder.lengths), step(ladder.target, 1.0)]
