"""Converts points to flat float64 arrays, from lists, numpy arrays and pandas series (by position, never by label).

Two series with different labels are refused: pairing them by position would combine one row's x with another's y.
"""

import numpy as np

from ditscale.errors import UserError


def numbers(name: str, values) -> np.ndarray:
    """``values`` in float64 (FLOPs overflow int64), of any shape; missing values are NaN.

    Raises:
        UserError: a value is not a number; the message names the first.
    """
    try:
        return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan) if _labeled(values) else values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be numbers: {_first_wrong(values)}") from None


def names(name: str, values, count: int) -> np.ndarray:
    """The group of each of ``count`` points as text; without groups each point is its own group.

    Raises:
        UserError: a group is missing. Points without one would count as one run.
    """
    if values is None:
        return np.arange(count).astype(str)
    listed = np.asarray(values)
    if listed.dtype.kind not in "iuU":
        missing = [i for i, value in enumerate(listed.ravel()) if value is None or type(value).__name__ == "NAType" or value != value]
        if missing:
            raise UserError(f"{name} has no value at index {missing[0]}: every point needs a group")
    return listed.astype(str)


def require_one_table(**columns) -> None:
    """Refuses pandas series of equal length with different labels.

    Raises:
        UserError: the labels differ; the message names the two series and one label of each.
    """
    labeled = [(name, column.index) for name, column in columns.items() if _labeled(column)]
    for (first, one), (second, other) in zip(labeled, labeled[1:]):
        if len(one) == len(other) and not one.equals(other):
            at = next(i for i in range(len(one)) if one[i] != other[i])
            raise UserError(f"{first} and {second} are series with different labels ({one[at]!r} and {other[at]!r} at index {at}): take both from "
                            "one table, or pass .to_numpy() to pair them by position")


def require_positive(name: str, values: np.ndarray) -> None:
    """Refuses values that are not positive; names the first."""
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if wrong.size:
        raise UserError(f"{name} is {values[wrong[0]]:g} at index {wrong[0]}; it must be above 0")


def _labeled(values) -> bool:
    return hasattr(values, "to_numpy") and hasattr(values, "index")


def _first_wrong(values) -> str:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        return f"got {values!r}"
    for place, value in enumerate(values):
        try:
            float(value)
        except (TypeError, ValueError):
            return f"{value!r} at index {place} is not"
    return f"got a {type(values).__name__}"


def members(groups: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The distinct names in order, and of each the indices of its points in order; ``groups`` is ``(n,)``."""
    found, where = np.unique(groups, return_inverse=True)
    return found, np.split(np.argsort(where, kind="stable"), np.cumsum(np.bincount(where))[:-1])
