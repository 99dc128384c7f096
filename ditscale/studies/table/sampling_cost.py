"""What an image costs to make, and how many a run's evaluations made, from the rows of a table."""

import json

import numpy as np
import pandas as pd

from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import LOSS
from ditscale.models.macs import FLOPS_PER_MAC

EVERYWHERE = (None, "all")                                                     # a passport's guidance_interval that includes every step


def flops_per_image(rows: pd.DataFrame) -> pd.Series:
    """FLOPs of the model for one image as each row's images were made; NaN where that is not known. The decoder is not counted. A validation loss
    makes no images: its rows have the cost of those of the run's scores, where ``with_image_costs`` found some.

    The forward passes per image are those on record, else the evaluation's FLOPs over its images, else the NFE, twice with guidance in every step.
    """
    per_forward, unknown = FLOPS_PER_MAC * rows["macs"].astype(float), pd.Series(np.nan, rows.index)
    forwards = rows["forwards_per_image"].astype(float) if "forwards_per_image" in rows else unknown
    if {"evaluation_flops", "samples"} <= set(rows):
        forwards = forwards.fillna((rows["evaluation_flops"].astype(float) / rows["samples"].astype(float) / per_forward).mask(_is_loss(rows)))
    if {"nfe", "guidance_scale"} <= set(rows):
        stated = rows["nfe"].astype(float) * np.where(rows["guidance_scale"] == 1, 1.0, 2.0)
        forwards = forwards.fillna(stated.where(_in_every_step(rows) & rows["guidance_scale"].notna()))
    found = per_forward * forwards
    return found.where(found > 0)


def with_image_costs(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``forwards_per_image`` of a run's scores in the rows of its validation losses too; their median, if there are several."""
    is_loss = _is_loss(table)
    if not is_loss.any() or is_loss.all() or "forwards_per_image" not in table:
        return table
    forwards = table.loc[~is_loss].groupby("run_id")["forwards_per_image"].median()
    return table.assign(forwards_per_image=table["forwards_per_image"].mask(is_loss, table["run_id"].map(forwards)))


def images_of_evaluations(rows: pd.DataFrame) -> float:
    """How many images the evaluations of a run made, in the median over the runs whose evaluations' FLOPs are on record; NaN if none are."""
    if "evaluation_flops" not in rows:
        return np.nan
    times = rows["sample_seeds"].astype(float) if "sample_seeds" in rows else 1.0      # rows of several sample seeds may be merged
    made = (rows["evaluation_flops"].astype(float) * times / flops_per_image(rows)).mask(_is_loss(rows)).groupby(rows["run_id"]).sum(min_count=1)
    return float(made.median())


def require_flops_per_image(rows: pd.DataFrame) -> pd.Series:
    """``flops_per_image`` of every row.

    Raises:
        UserError: that of a run is not known.
    """
    found = flops_per_image(rows)
    if found.isna().any():
        needed = "a score of images" if _is_loss(rows)[found.isna()].iloc[0] else "nfe and guidance_scale or evaluation_flops and samples"
        raise UserError(f"what an image costs to make is not known for run '{rows['run_id'][found.isna()].iloc[0]}': it needs macs, and {needed}")
    return found


def _is_loss(rows: pd.DataFrame) -> pd.Series:
    return rows["metric"] == LOSS if "metric" in rows else pd.Series(False, rows.index)


def _in_every_step(rows: pd.DataFrame) -> pd.Series:
    """Whether guidance, if there is any, is used in every step."""
    if "passport_fields" not in rows:
        return pd.Series(True, rows.index)
    return rows["passport_fields"].map(lambda fields: json.loads(fields or "{}").get("guidance_interval") in EVERYWHERE).astype(bool)
