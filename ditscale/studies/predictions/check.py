"""Predicted against actual: each prediction of a study next to what the target's runs then scored, the wrong ones too.

A prediction is met by a run of its model and variant, at the predicted number of images (to 1 %: runs end at whole batches), under the
same passport. Each such run is one row: the interval is for one new run.
"""

import math
from dataclasses import dataclass, replace

import pandas as pd

from ditscale.studies.predictions.record import content_sha256

SAME_LENGTH = 0.01
INSIDE, OUTSIDE, PENDING = "inside", "outside", "not run yet"


@dataclass(frozen=True)
class Outcome:
    """One quantity of one prediction and one run of its target; without a run ``actual`` is NaN.

    ``after``: it was made when the target had run, and counts for nothing. ``altered``: its line is not what was written.
    """

    date: str
    model: str
    variant: str
    images: int
    metric: str
    how: str
    predicted: float
    low: float
    high: float
    actual: float = math.nan
    run_id: str = ""
    after: bool = False
    altered: bool = False

    @property
    def state(self) -> str:
        if math.isnan(self.actual):
            return PENDING
        return INSIDE if self.low <= self.actual <= self.high else OUTSIDE

    @property
    def error(self) -> float:
        """predicted / actual - 1."""
        return self.predicted / self.actual - 1

    @property
    def remark(self) -> str:
        """What keeps it from being a prediction; empty where nothing does."""
        return "; ".join([*(["made after the target had run: no prediction"] if self.after else []),
                          *(["altered: its hash does not match"] if self.altered else [])])


def outcomes(records: list[dict], table: pd.DataFrame) -> list[Outcome]:
    """Every prediction of ``record.predictions`` against the ledger's rows, in the order in which they were made."""
    return [outcome for record in records for said in record["predicted"].values() if said for outcome in _of(record, said, table)]


def _of(record: dict, said: dict, table: pd.DataFrame) -> list[Outcome]:
    target = record["target"]
    facts = (record["date"], target["model"], target["variant"], target["images"], said["metric"], said.get("how") or said["way"],
             said["value"], said["low"], said["high"])
    marks = {"after": bool(record.get("after")), "altered": record["sha256"] != content_sha256(record)}
    rows = table[(table["model"] == target["model"]) & (table["variant"] == target["variant"]) & (table["metric"] == said["metric"])
                 & (table["passport"] == said["passport"]) & ((table["images_seen"] / target["images"] - 1).abs() <= SAME_LENGTH)]
    if "seed" in said and "sample_seed" in rows:                                                         # a validation loss is of its draws
        rows = rows[rows["sample_seed"] == said["seed"]]
    found = []
    for run_id, own in rows.groupby("run_id"):
        off = (own["images_seen"] - target["images"]).abs()
        score = own.loc[off == off.min(), "score"].astype(float).mean()        # sets of several sample seeds as their mean
        found.append(Outcome(*facts, actual=float(score), run_id=str(run_id), **marks))
    return found or [Outcome(*facts, **marks)]


def tally(found: list[Outcome]) -> str:
    """``3 of 4 predictions held``: of those made beforehand that are as they were written."""
    counted = [outcome for outcome in dict.fromkeys(replace(outcome, date="") for outcome in found)       # the same one twice counts once
               if not outcome.remark and outcome.state != PENDING]
    held = sum(outcome.state == INSIDE for outcome in counted)
    waiting = sum(outcome.state == PENDING for outcome in found)
    words = f"{held} of {len(counted)} predicted values lie inside their 95 % interval" if counted else "no prediction has been met yet"
    return words + (f"; {waiting} wait for their target" if waiting else "")
