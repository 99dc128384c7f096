"""Converts the user's points to flat float64 arrays: lists, numpy arrays and pandas series (by position, never by label).

Two series whose labels differ are not rows of one table: pairing them by position would join one row's x with another's y.
"""

import numpy as np

from ditscale.errors import UserError


def numbers(name: str, values) -> np.ndarray:
    """``values`` in float64 (FLOPs overflow int64), of any shape; what is missing is NaN.

    Raises:
        UserError: a value is no number; the message names the first.
    """
    try:
        return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan) if _labelled(values) else values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be numbers: {_first_wrong(values)}") from None


def names(name: str, values, count: int) -> np.ndarray:
    """The group of each of ``count`` points as text; without groups each point is one of its own.

    Raises:
        UserError: a group is missing: points without one would count as one run.
    """
    if values is None:
        return np.arange(count).astype(str)
    listed = np.asarray(values)
    if listed.dtype.kind not in "iuU":
        missing = [i for i, value in enumerate(listed.ravel()) if value is None or type(value).__name__ == "NAType" or value != value]
        if missing:
            raise UserError(f"{name} has no value at place {missing[0]}: a point without a group belongs to no run")
    return listed.astype(str)


def require_one_table(**columns) -> None:
    """Refuse pandas series of equal length whose labels differ.

    Raises:
        UserError: names the two, and a label of each.
    """
    labelled = [(name, column.index) for name, column in columns.items() if _labelled(column)]
    for (first, one), (second, other) in zip(labelled, labelled[1:]):
        if len(one) == len(other) and not one.equals(other):
            at = next(i for i in range(len(one)) if one[i] != other[i])
            raise UserError(f"{first} and {second} are series with different labels ({one[at]!r} and {other[at]!r} at place {at}): take both from "
                            "one table, or give .to_numpy() where places alone count")


def require_positive(name: str, values: np.ndarray) -> None:
    """Refuse values that have no logarithm; names the first."""
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if wrong.size:
        raise UserError(f"{name} is {values[wrong[0]]:g} at place {wrong[0]}; it must be above 0")


def _labelled(values) -> bool:
    return hasattr(values, "to_numpy") and hasattr(values, "index")


def _first_wrong(values) -> str:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        return f"given was {values!r}"
    for place, value in enumerate(values):
        try:
            float(value)
        except (TypeError, ValueError):
            return f"{value!r} at place {place} is none"
    return f"given was a {type(values).__name__}"
