"""The cost axis of figures: training FLOPs, accelerator-hours, money or images, with label, ticks and errors."""

import click
import pandas as pd

from ditscale.errors import UserError
from ditscale.figures.kit import panels, study_table, style
from ditscale.studies.table.study import COSTS

LABELS = {"train_flops": "Training compute (FLOPs)", "accelerator_hours": "Training time (accelerator-hours)",
          "money": "Training cost (money, in the price's currency)", "images_seen": "Images seen"}
OPTIONS = {
    "cost": {"type": click.Choice(tuple(COSTS)), "default": "train_flops", "show_default": True, "help": "The cost axis."},
    "price": {"type": float, "metavar": "X", "help": "Price per accelerator-hour, for --cost money."},
}


def file_name(name: str, cost: str) -> str:
    """The name of a figure's files; with another cost than FLOPs its own, so that it does not replace the report's."""
    return name if cost == "train_flops" else f"{name}_{cost}"


def column_of(cost: str) -> str:
    """The table's column that a cost is read from."""
    return "accelerator_hours" if cost == "money" else cost


def known(rows: pd.DataFrame, cost: str) -> tuple[pd.DataFrame, str]:
    """The rows with a known cost, and a sentence on the others.

    Raises:
        UserError: no row has one, or the table has no such column.
    """
    study_table.require_columns(rows, (column_of(cost),))
    return study_table.known(rows, column_of(cost), COSTS[column_of(cost)])


def values(rows: pd.DataFrame, cost: str, price: float | None) -> pd.Series:
    """The cost of each row, in the unit of ``LABELS``.

    Raises:
        UserError: money without a price above 0.
    """
    if cost != "money":
        return rows[column_of(cost)].astype(float)
    if price is None:
        raise UserError("--cost money needs the price of one accelerator-hour, for example --price 2.5")
    if not price > 0:
        raise UserError(f"--price {price:g}: give the price of one accelerator-hour, above 0, for example 2.5")
    return rows["accelerator_hours"].astype(float) * price


def axis(axes, found, cost: str) -> None:
    """A log axis of this cost: powers of ten for FLOPs, short counts for images, plain numbers for hours and money."""
    if cost == "train_flops":
        panels.flops_axis(axes, found, LABELS[cost])
    elif cost == "images_seen":
        panels.images_axis(axes, found, LABELS[cost])
    else:
        limits = style.log_axis(axes.xaxis, found, LABELS[cost], pad=0.08)
        panels.thin_ticks(axes.xaxis, *limits, apart=0.11)


def words(cost: str, price: float | None) -> str:
    """For a caption."""
    return f"money at {price:g} per accelerator-hour of training" if cost == "money" else COSTS[cost]
