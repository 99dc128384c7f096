"""The rows of single runs, as arrays: of thousands of runs without a table for each."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection


def per_run(rows: pd.DataFrame, *columns: str) -> list[tuple[np.ndarray, ...]]:
    """For each run, in the order of the rows, these columns ``(k,)`` of its rows."""
    code = pd.factorize(rows["run_id"])[0]
    order, ends = np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1]
    return list(zip(*(np.split(rows[column].to_numpy()[order], ends) for column in columns)))


def curves(rows: pd.DataFrame, x: str, y: str) -> list[np.ndarray]:
    """Each run's points ``(k, 2)``, in the order of the rows."""
    return [np.column_stack(run).astype(float) for run in per_run(rows, x, y)]


def lines(axes, of_runs: Sequence, **look) -> None:
    """Draws curves ``(k, 2)`` of one look as one artist, which is much faster than as many."""
    axes.add_collection(LineCollection(list(of_runs), capstyle="round", **look))


def between(polylines: Iterable, steps: int = 12) -> np.ndarray:
    """Points along polylines ``(k, 2)`` drawn on log axes, ``(n, 2)``, for labels to avoid."""
    logs = [np.log(np.asarray(line, float)) for line in polylines]
    if not logs:
        return np.empty((0, 2))
    starts, ends = (np.concatenate([line[part] for line in logs]) for part in (slice(None, -1), slice(1, None)))
    part = np.linspace(0.0, 1.0, steps)[:, None, None]
    return np.exp(np.vstack([*logs, (starts + (ends - starts) * part).reshape(-1, 2)]))
