"""Budgets of a study: training lengths in images or FLOPs, or in accelerator-hours or money, which are converted to FLOPs.

A run's length is part of its identity, so it must not depend on the machine that reads the file: hours need an accelerator and a
utilization, and money also a price.
"""

from typing import Annotated

from pydantic import Field, model_validator

from ditscale.cost.hardware import DENSE_BF16_FLOPS
from ditscale.errors import UserError, did_you_mean
from ditscale.section import Count, Section

Positive = Annotated[float, Field(gt=0)]
NEEDS = {"flops": (), "images": (), "accelerator_hours": ("accelerator", "utilization"), "money": ("accelerator", "utilization", "price")}
EXAMPLE = {"accelerator": "H100", "utilization": 0.35, "price": 2.5}


class Budgets(Section):
    """Training lengths in one unit; in all units except images, runs of one budget cost the same. Only training is counted."""

    older_keys = {"utilisation": "utilization"}

    flops: list[float] | None = None
    images: list[Count] | None = None
    accelerator_hours: list[Positive] | None = None                            # per run, over all its accelerators
    money: list[Positive] | None = None                                        # for these hours
    accelerator: str | None = None                                             # a name in the table of cost/hardware.py
    utilization: float | None = Field(default=None, gt=0, le=1)                # of its dense bf16 peak
    price: Positive | None = None                                              # per accelerator-hour

    @model_validator(mode="after")
    def _one_currency(self):
        given = [name for name in NEEDS if getattr(self, name)]
        if len(given) != 1:
            raise UserError("budgets takes either 'flops: [1e18, ...]' or 'images: [1e6, ...]', or 'accelerator_hours: [10, ...]' or "
                            "'money: [25, ...]' with their further keys")
        for name, example in EXAMPLE.items():
            if name in NEEDS[given[0]] and getattr(self, name) is None:
                raise UserError(f"budgets.{given[0]} needs budgets.{name}, for example {name}: {example}; a run's length must not "
                                "depend on the machine that reads the file")
            if name not in NEEDS[given[0]] and getattr(self, name) is not None:
                raise UserError(f"budgets.{name} is {getattr(self, name)}, but budgets.{given[0]} does not depend on it; leave it out")
        if self.accelerator is not None and self.accelerator not in DENSE_BF16_FLOPS:
            raise UserError(f"budgets.accelerator is '{self.accelerator}'{did_you_mean(self.accelerator, DENSE_BF16_FLOPS) or '.'} "
                            f"There are {', '.join(DENSE_BF16_FLOPS)}")
        return self

    @property
    def currency(self) -> str:
        """The key of the budgets that were given."""
        return next(name for name in NEEDS if getattr(self, name))

    def axis(self) -> tuple[str, list]:
        """The config key that varies, and its values, in the order of the budgets."""
        if self.images:
            return "train.images", self.images
        return "train.flops", self.flops or [hours * 3600 * self._flops_per_second for hours in self._hours]

    def derivation(self) -> list[str]:
        """The conversion of hours and money to FLOPs, one line per budget."""
        if not self.accelerator:
            return []
        peak = DENSE_BF16_FLOPS[self.accelerator]
        paid = [f"{money:g} at {self.price:g} per hour = " for money in self.money] if self.money else [""] * len(self._hours)
        return [f"budget: {money}{hours:g} {self.accelerator}-hours of training x {self.utilization:g} of {peak / 1e12:g} TFLOP/s = "
                f"{hours * 3600 * self._flops_per_second:.4g} FLOPs" for money, hours in zip(paid, self._hours)]

    @property
    def _hours(self) -> list[float]:
        return self.accelerator_hours or [money / self.price for money in self.money]

    @property
    def _flops_per_second(self) -> float:
        return self.utilization * DENSE_BF16_FLOPS[self.accelerator]
