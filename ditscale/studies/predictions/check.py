"""Predicted against actual: each prediction of a study with the actual scores of the target's runs, right or wrong.

A prediction is compared with a run of its model and variant, at the predicted number of images (to 1 %: runs end at whole batches), with the
same passport. Each of these runs is one row: the interval is for one new run.
"""

import math
from dataclasses import dataclass, replace

import pandas as pd

from ditscale.studies.predictions.record import content_sha256

SAME_LENGTH = 0.01
INSIDE, OUTSIDE, PENDING = "inside", "outside", "not run yet"


@dataclass(frozen=True)
class Outcome:
    """One value of one prediction and one run of its target; without a run ``actual`` is NaN.

    ``after``: it was made after the target had run and does not count. ``altered``: its line was changed after it was written.
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
        """Why it does not count as a prediction; "" if it does."""
        return "; ".join([*(["made after the target had run: does not count"] if self.after else []),
                          *(["altered: its hash does not match"] if self.altered else [])])


def outcomes(records: list[dict], table: pd.DataFrame) -> list[Outcome]:
    """Every prediction of ``record.predictions`` against the ledger's rows, in order of date."""
    return [outcome for record in records for value in record["predicted"].values() if value for outcome in _of(record, value, table)]


def _of(record: dict, value: dict, table: pd.DataFrame) -> list[Outcome]:
    target = record["target"]
    facts = (record["date"], target["model"], target["variant"], target["images"], value["metric"], value.get("how") or value["way"],
             value["value"], value["low"], value["high"])
    marks = {"after": bool(record.get("after")), "altered": record["sha256"] != content_sha256(record)}
    rows = table[(table["model"] == target["model"]) & (table["variant"] == target["variant"]) & (table["metric"] == value["metric"])
                 & (table["passport"] == value["passport"]) & ((table["images_seen"] / target["images"] - 1).abs() <= SAME_LENGTH)]
    if "seed" in value and "sample_seed" in rows:                           # a validation loss depends on its draws
        rows = rows[rows["sample_seed"] == value["seed"]]
    found = []
    for run_id, own in rows.groupby("run_id"):
        off = (own["images_seen"] - target["images"]).abs()
        score = own.loc[off == off.min(), "score"].astype(float).mean()        # several sample seeds: their mean
        found.append(Outcome(*facts, actual=float(score), run_id=str(run_id), **marks))
    return found or [Outcome(*facts, **marks)]


def tally(found: list[Outcome]) -> str:
    """``3 of 4 predictions held``: counts unaltered predictions made before the target ran."""
    counted = [outcome for outcome in dict.fromkeys(replace(outcome, date="") for outcome in found)       # duplicates count once
               if not outcome.remark and outcome.state != PENDING]
    held = sum(outcome.state == INSIDE for outcome in counted)
    waiting = sum(outcome.state == PENDING for outcome in found)
    marked = sum(bool(outcome.remark) for outcome in found)
    nothing = f"none counts: {marked} altered or made after the target had run" if marked else "no prediction can be checked yet"
    words = f"{held} of {len(counted)} predicted values are inside their 95 % interval" if counted else nothing
    return words + (f"; {waiting} not run yet" if waiting else "")
