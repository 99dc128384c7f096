"""The status of an analysis with a sentence: never an exception, and never an invented number.

Points come as three arrays of equal length: ``x`` (a cost), ``y`` (a score) and ``groups`` (the run of each point).
"""

from enum import Enum

import numpy as np

from ditscale.errors import UserError
from ditscale.scaling import inputs

MIN_DISTINCT_X = 3     # two x always lie on a line: the third is the first that can disagree
MIN_RUNS = 3           # under three runs, a resample of runs is nearly always one of the runs again
FARTHEST = 4.0         # times the data's range: beyond, a law is asked for what nothing in the data speaks of


class Status(Enum):
    """How an analysis ended. The value is the sentence for people; the name is the word for files."""

    CONVERGED = "the result stands"
    BAD_DATA = "the data hold a value that no logarithm takes"
    ONE_RUN = "every point is of one run: a training curve is not a law across runs"
    TOO_FEW_POINTS = f"fewer than {MIN_DISTINCT_X} distinct x: a line through them could not be wrong"
    TOO_FEW_RUNS = f"fewer than {MIN_RUNS} runs: resampling them says nothing about other runs"
    TOO_FEW_SIZES = "no more distinct points than coefficients: any such curve passes through them"
    ONE_LINE = "all runs lie on one line of the variables: the data cannot tell their effects apart"
    NO_OPTIMUM = "the solver found no optimum: its best is the point it started from, or has not converged"
    FEW_STARTS_AGREE = "few starts reach the best optimum: another may be better still"
    BOUND_HIT = "a coefficient ran to the end of its range: the data do not need it, or do not determine it"
    LACK_OF_FIT = "the law misses the points by more than the seeds explain: it is not the law of these data"
    FAILS_IN_TIME = "fitted on the first half of the runs, the law misses their ends: it says nothing beyond the data"
    NO_SPREAD = "all values are equal: there is nothing to correlate"
    ONE_SEED = "no cell has two seeds: there is no estimate of the noise, and so no verdict"
    NO_COMMON_RANGE = "the curves share no such score: beyond what was measured nothing is said"
    NOT_REACHED = "not every run reached the score: its cost there is only known to be higher"

    @property
    def ok(self) -> bool:
        return self is Status.CONVERGED

    @property
    def drawable(self) -> bool:
        """Whether a curve may be drawn through the points; the sentence belongs beside it where the result is not ok."""
        return self in (Status.CONVERGED, Status.FEW_STARTS_AGREE, Status.BOUND_HIT, Status.FAILS_IN_TIME)

    @property
    def sentence(self) -> str:
        return self.value

    def because(self, detail: str) -> str:
        """The sentence, with what in the data caused it."""
        return self.sentence + (f" ({detail})" if detail else "")


def as_points(x, y, groups=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three arrays: x, y in float64 (FLOPs overflow int64), groups as text; without groups each point is a run.

    Raises:
        UserError: they are not flat and of equal length, series of different tables, or hold a value that is no number.
    """
    inputs.require_one_table(x=x, y=y, groups=groups)
    x, y = np.atleast_1d(inputs.numbers("x", x)), np.atleast_1d(inputs.numbers("y", y))
    groups = inputs.names("groups", groups, len(x))
    if x.ndim != 1 or not x.shape == y.shape == groups.shape:
        raise UserError(f"points must be flat and of equal length; got x {x.shape}, y {y.shape}, groups {groups.shape}")
    return x, y, groups


def first_bad(x: np.ndarray, y: np.ndarray, groups: np.ndarray, y_in_log: bool = True) -> str:
    """Names the first point without a logarithm, or an empty string. Shapes ``(n,)``."""
    bad_x = ~(np.isfinite(x) & (x > 0))
    bad_y = ~np.isfinite(y) | (y_in_log & (y <= 0))
    bad = np.flatnonzero(bad_x | bad_y)
    if not bad.size:
        return ""
    i = bad[0]
    name, value = ("x", x[i]) if bad_x[i] else ("y", y[i])
    others = f" and {bad.size - 1} more" if bad.size > 1 else ""
    return f"{name} = {value:g} of run '{groups[i]}'{others}"
