"""The status of an analysis with a sentence: never an exception, and never an invented number.

Points come as three arrays of equal length: ``x`` (a cost), ``y`` (a score) and ``groups`` (the run of each point).
"""

from enum import Enum

import numpy as np

from ditscale.errors import UserError
from ditscale.scaling import inputs

MIN_DISTINCT_X = 3     # two x always lie on a line; a third can disagree
MIN_RUNS = 3           # with fewer than three runs, a resample is almost always one run repeated
FARTHEST = 4.0         # times the data's range: beyond, the data do not support a law


class Status(Enum):
    """How an analysis ended. The value is a sentence for users, the name is the word in files."""

    CONVERGED = "the result is valid"
    BAD_DATA = "the data contain a value that is not positive and finite, so it has no logarithm"
    ONE_RUN = "every point is from one run: a training curve is not a law across runs"
    TOO_FEW_POINTS = f"fewer than {MIN_DISTINCT_X} distinct x: a line through them cannot be tested"
    TOO_FEW_RUNS = f"fewer than {MIN_RUNS} runs: resampling them does not represent other runs"
    TOO_FEW_SIZES = "no more distinct points than coefficients: a curve of this form passes through all of them"
    ONE_LINE = "all runs lie on one line of the variables: the data cannot separate their effects"
    NO_OPTIMUM = "the solver found no optimum: it returned its starting point or did not converge"
    FEW_STARTS_AGREE = "few starts reach the best optimum: there may be a better one"
    BOUND_HIT = "a coefficient is at the limit of its range: the data do not need it or do not determine it"
    LACK_OF_FIT = "the law misses the points by more than the seeds explain: it does not describe these data"
    FAILS_IN_TIME = "fitted on the first half of the runs, the law misses their ends: it does not hold beyond the data"
    NO_SPREAD = "all values are equal: there is nothing to correlate"
    ONE_SEED = "no cell has two seeds: there is no estimate of the noise and therefore no verdict"
    NO_COMMON_RANGE = "the curves do not share this score, and nothing is extrapolated"
    NOT_REACHED = "not every run reached the score: the true cost is higher"

    @property
    def ok(self) -> bool:
        return self is Status.CONVERGED

    @property
    def drawable(self) -> bool:
        """Whether a curve may be drawn through the points; show the sentence with it if the result is not ok."""
        return self in (Status.CONVERGED, Status.FEW_STARTS_AGREE, Status.BOUND_HIT, Status.FAILS_IN_TIME)

    @property
    def sentence(self) -> str:
        return self.value

    def because(self, detail: str) -> str:
        """The sentence with its cause in the data."""
        return self.sentence + (f" ({detail})" if detail else "")


def as_points(x, y, groups=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three arrays: x, y in float64 (FLOPs overflow int64), groups as text; by default each point is a run.

    Raises:
        UserError: they are not flat and of equal length, are series from different tables, or contain a value that is not a number.
    """
    inputs.require_one_table(x=x, y=y, groups=groups)
    x, y = np.atleast_1d(inputs.numbers("x", x)), np.atleast_1d(inputs.numbers("y", y))
    groups = inputs.names("groups", groups, len(x))
    if x.ndim != 1 or not x.shape == y.shape == groups.shape:
        raise UserError(f"points must be flat and of equal length; got x {x.shape}, y {y.shape}, groups {groups.shape}")
    return x, y, groups


def first_bad(x: np.ndarray, y: np.ndarray, groups: np.ndarray, y_in_log: bool = True) -> str:
    """The first point with a value that is not positive and finite, or "". Shapes ``(n,)``."""
    bad_x = ~(np.isfinite(x) & (x > 0))
    bad_y = ~np.isfinite(y) | (y_in_log & (y <= 0))
    bad = np.flatnonzero(bad_x | bad_y)
    if not bad.size:
        return ""
    i = bad[0]
    name, value = ("x", x[i]) if bad_x[i] else ("y", y[i])
    others = f" and {bad.size - 1} more" if bad.size > 1 else ""
    return f"{name} = {value:g} of run '{groups[i]}'{others}"
